"""x86-64: AVX2 as the floor, VNNI where the level has it. Source: Intel SDM volume 2."""

from __future__ import annotations

from exosuit.kernel.builder import current
from exosuit.kernel.lowering.cpu import Cpu
from exosuit.kernel.types import Type, i8, i16, i32
from exosuit.kernel.value import Value


class X86(Cpu):
    def dot4(self, a: Value, b: Value, accumulator: Value) -> Value:
        if not a.type.is_signed and current().target.has("vnni"):
            return _dot4_vnni(a, b, accumulator)
        return accumulator + _dot4_widened(a, b)

    def pair_dot_bytes(self, a: Value, b: Value) -> Value:
        return _pairs("pmadd.ub.sw", a, b, i16)

    def pair_dot(self, a: Value, b: Value) -> Value:
        return _pairs("pmadd.wd", a, b, i32)

    def apply_sign(self, x: Value, sign: Value) -> Value:
        if x.lanes == 32:
            operands = ((x.type.ir, x.ir), (sign.type.ir, sign.ir))
            return Value(x.type, current().call(x.type.ir, "llvm.x86.avx2.psign.b", *operands))
        low, high = (range(32), range(32, 64))
        parts = [self.apply_sign(x.shuffle(half), sign.shuffle(half)) for half in (low, high)]
        return parts[0].shuffle(range(64), parts[1])

    def lookup16(self, table: list[int], index: Value) -> Value:
        lanes = index.lanes
        entries = ", ".join(f"i8 {x}" for x in table * (lanes // 16))
        name, ir = _sized("pshuf.b", lanes * 8), Type(i8, lanes).ir
        text = current().call(ir, name, (ir, f"<{entries}>"), (ir, index.ir))
        return Value(Type(i8, lanes), text)


def _sized(operation: str, bits: int) -> str:
    """The intrinsic's name in the AVX2 or the AVX-512 spelling."""
    family = {128: "ssse3" if "pmadd.wd" not in operation else "sse2", 256: "avx2"}.get(bits)
    if family == "ssse3":
        return f"llvm.x86.ssse3.{operation}.128"
    if family:
        return f"llvm.x86.{family}.{operation}"
    return {
        "pmadd.ub.sw": "llvm.x86.avx512.pmaddubs.w.512",
        "pmadd.wd": "llvm.x86.avx512.pmaddw.d.512",
        "pshuf.b": "llvm.x86.avx512.pshuf.b.512",
    }[operation]


def _pairs(operation: str, a: Value, b: Value, to: type[i16 | i32]) -> Value:
    result = Type(to, a.lanes // 2)
    name = _sized(operation, a.type.bits)
    text = current().call(result.ir, name, (a.type.ir, a.ir), (b.type.ir, b.ir))
    return Value(result, text)


def _dot4_vnni(a: Value, b: Value, accumulator: Value) -> Value:
    name = f"llvm.x86.avx512.vpdpbusd.{accumulator.type.bits}"
    operands = [(v.type.ir, v.ir) for v in (accumulator, a, b)]
    return Value(accumulator.type, current().call(accumulator.type.ir, name, *operands))


def _dot4_widened(a: Value, b: Value) -> Value:
    """For each four neighbouring bytes the sum of products: through i16, where all is exact."""
    wide_a, wide_b = a.to(i16), b.to(i16)
    half = a.lanes // 2
    sums: list[Value] = []
    for first in (0, half):
        lanes = range(first, first + half)
        sums.append(_pairs("pmadd.wd", wide_a.shuffle(lanes), wide_b.shuffle(lanes), i32))
    pairs = sums[0].shuffle(range(half), sums[1])
    even = pairs.shuffle(range(0, half, 2))
    odd = pairs.shuffle(range(1, half, 2))
    return even + odd
