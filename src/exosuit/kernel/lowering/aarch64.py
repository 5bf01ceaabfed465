"""AArch64: NEON as the floor, dotprod and i8mm where the level has them.

Source: Arm Architecture Reference Manual (SDOT, UDOT: FEAT_DotProd; USDOT: FEAT_I8MM; TBL).
"""

from __future__ import annotations

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.lowering.cpu import Cpu, dot4_by_widening
from exosuit.kernel.types import Type, i8
from exosuit.kernel.value import Value, join


class AArch64(Cpu):
    def dot4(self, a: Value, b: Value, accumulator: Value) -> Value:
        lanes = accumulator.lanes
        if a.type.is_signed and not b.type.is_signed:
            a, b = b, a
        word = {(True, True): "sdot", (False, False): "udot", (False, True): "usdot"}[
            a.type.is_signed, b.type.is_signed
        ]
        target = current().target
        if lanes % 2 or not target.has("i8mm" if word == "usdot" else "dot4_fast"):
            return dot4_by_widening(a, b, accumulator)
        step = 4 if lanes % 4 == 0 else 2
        name = f"llvm.aarch64.neon.{word}.v{step}i32.v{4 * step}i8"
        return join(*(
            _call(name, *(_part(v, k, step) for v in (accumulator, a, b)))
            for k in range(lanes // step)
        ))  # fmt: skip

    def lookup16(self, table: list[int], index: Value) -> Value:
        if index.lanes % 8:
            raise refuse(f"lookup16 of {index.type}", "a multiple of 8 bytes on AArch64")
        step = 16 if index.lanes % 16 == 0 else 8
        register = Value(Type(i8, 16), "<" + ", ".join(f"i8 {x}" for x in table) + ">")
        name = f"llvm.aarch64.neon.tbl1.v{step}i8"
        parts = [index.shuffle(range(k, k + step)).view(i8) for k in range(0, index.lanes, step)]
        operands = [((register.type.ir, register.ir), (x.type.ir, x.ir)) for x in parts]
        result = Type(i8, step)
        return join(*(Value(result, current().call(result.ir, name, *pair)) for pair in operands))


def _part(x: Value, number: int, accumulators: int) -> Value:
    """The piece of an operand that belongs to `accumulators` i32 lanes; bytes come fourfold."""
    width = accumulators * 32 // x.dtype.bits
    return x if x.lanes == width else x.shuffle(range(number * width, (number + 1) * width))


def _call(name: str, accumulator: Value, a: Value, b: Value) -> Value:
    operands = [(v.type.ir, v.ir) for v in (accumulator, a, b)]
    return Value(accumulator.type, current().call(accumulator.type.ir, name, *operands))
