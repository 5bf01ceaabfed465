"""AArch64: NEON as the floor, dotprod and i8mm where the level has them.

Source: Arm Architecture Reference Manual (SDOT, UDOT: FEAT_DotProd; USDOT: FEAT_I8MM; TBL; SADDLP,
UADDLP, ADDP).
"""

from __future__ import annotations

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.lowering.cpu import Cpu, dot4_by_widening
from exosuit.kernel.types import Type, i8, i16, i32, u16
from exosuit.kernel.value import Value, join


class AArch64(Cpu):
    def dot4(self, a: Value, b: Value, accumulator: Value) -> Value:
        lanes = accumulator.lanes
        if a.type.is_signed and not b.type.is_signed:
            a, b = b, a
        word = {(True, True): "sdot", (False, False): "udot", (False, True): "usdot"}[
            a.type.is_signed, b.type.is_signed
        ]
        fast = current().target.has("i8mm" if word == "usdot" else "dot4_fast")
        if lanes % (2 if fast else 4):
            return dot4_by_widening(a, b, accumulator)
        step = 4 if lanes % 4 == 0 else 2
        operands = [[_part(v, k, step) for v in (accumulator, a, b)] for k in range(lanes // step)]
        if not fast:
            return join(*(start + _dot4_pairwise(x, y) for start, x, y in operands))
        name = f"llvm.aarch64.neon.{word}.v{step}i32.v{4 * step}i8"
        return join(*(_call(name, Type(i32, step), *three) for three in operands))

    def lookup16(self, table: list[int], index: Value) -> Value:
        if index.lanes % 8:
            raise refuse(f"lookup16 of {index.type}", "a multiple of 8 bytes on AArch64")
        step = 16 if index.lanes % 16 == 0 else 8
        register = Value(Type(i8, 16), "<" + ", ".join(f"i8 {x}" for x in table) + ">")
        name = f"llvm.aarch64.neon.tbl1.v{step}i8"
        parts = [index.shuffle(range(k, k + step)).view(i8) for k in range(0, index.lanes, step)]
        return join(*(_call(name, Type(i8, step), register, part) for part in parts))


def _dot4_pairwise(a: Value, b: Value) -> Value:
    """Sixteen bytes of each to i32[4]: products of 16 bits, whose neighbours are added twice.

    16 bits hold any product: of two u8 as u16, of others as i16 (255 * -128 is the largest).
    """
    letter, wide = ("s", i16) if a.type.is_signed or b.type.is_signed else ("u", u16)
    products = a.to(wide) * b.to(wide)
    pairs = [
        _call(f"llvm.aarch64.neon.{letter}addlp.v4i32.v8i16", Type(i32, 4), half)
        for half in (products.shuffle(range(8)), products.shuffle(range(8, 16)))
    ]
    return _call("llvm.aarch64.neon.addp.v4i32", Type(i32, 4), *pairs)


def _part(x: Value, number: int, accumulators: int) -> Value:
    """The piece of an operand that belongs to `accumulators` i32 lanes; bytes come fourfold."""
    width = accumulators * 32 // x.dtype.bits
    return x if x.lanes == width else x.shuffle(range(number * width, (number + 1) * width))


def _call(name: str, result: Type, *operands: Value) -> Value:
    pairs = [(v.type.ir, v.ir) for v in operands]
    return Value(result, current().call(result.ir, name, *pairs))
