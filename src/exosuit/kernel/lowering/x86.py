"""x86-64: AVX2 as the floor, VNNI where the level has it. Source: Intel SDM volume 2.

A vector wider than the level's registers is cut in halves here, because LLVM's back end has no
answer but an abort when an intrinsic of a width the level lacks is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.lowering.cpu import Cpu, dot4_by_widening
from exosuit.kernel.types import Type, i8, i16, i32
from exosuit.kernel.value import Value, join

_WIDTHS = (128, 256, 512)
_NAMES = {
    "maddubs": ("ssse3.pmadd.ub.sw.128", "avx2.pmadd.ub.sw", "avx512.pmaddubs.w.512"),
    "madd": ("sse2.pmadd.wd", "avx2.pmadd.wd", "avx512.pmaddw.d.512"),
    "shuffle": ("ssse3.pshuf.b.128", "avx2.pshuf.b", "avx512.pshuf.b.512"),
    "sign": ("ssse3.psign.b.128", "avx2.psign.b", None),  # AVX-512 has none
}


class X86(Cpu):
    def dot4(self, a: Value, b: Value, accumulator: Value) -> Value:
        if a.type.is_signed and not b.type.is_signed:
            a, b = b, a
        mixed = not a.type.is_signed and b.type.is_signed
        if mixed and a.type.bits in _WIDTHS and current().target.has("vnni"):
            return _dot4_vnni(a, b, accumulator)
        if a.type.bits not in _WIDTHS:
            return dot4_by_widening(a, b, accumulator)
        return accumulator + _dot4_pairs(a, b)

    def pair_dot_bytes(self, a: Value, b: Value) -> Value:
        return _call("maddubs", lambda bits: Type(i16, bits // 16), a, b)

    def pair_dot(self, a: Value, b: Value) -> Value:
        return _call("madd", lambda bits: Type(i32, bits // 32), a, b)

    def apply_sign(self, x: Value, sign: Value) -> Value:
        return _call("sign", lambda bits: Type(x.dtype, bits // 8), x, sign)

    def lookup16(self, table: list[int], index: Value) -> Value:
        entries = ", ".join(f"i8 {x}" for x in table * (index.lanes // 16))
        tables = Value(Type(i8, index.lanes), f"<{entries}>")
        return _call("shuffle", lambda bits: Type(i8, bits // 8), tables, index)


def _call(operation: str, result: Callable[[int], Type], a: Value, b: Value) -> Value:
    """An intrinsic of two vectors of one width, in the widest form that the level has."""
    bits = a.type.bits
    if bits not in _WIDTHS or b.type.bits != bits:
        raise refuse(f"{operation} of {a.type} and {b.type}", "x86 has it for 128, 256 or 512 bits")
    name = _NAMES[operation][_WIDTHS.index(bits)]
    if name is None or (bits == 512 and not current().target.has("avx512")):
        low = [v.shuffle(range(v.lanes // 2)) for v in (a, b)]
        high = [v.shuffle(range(v.lanes // 2, v.lanes)) for v in (a, b)]
        return join(_call(operation, result, *low), _call(operation, result, *high))
    to = result(bits)
    operands = ((a.type.ir, a.ir), (b.type.ir, b.ir))
    return Value(to, current().call(to.ir, f"llvm.x86.{name}", *operands))


def _dot4_vnni(a: Value, b: Value, accumulator: Value) -> Value:
    name = f"llvm.x86.avx512.vpdpbusd.{accumulator.type.bits}"
    operands = [(v.type.ir, v.ir) for v in (accumulator, a, b)]
    return Value(accumulator.type, current().call(accumulator.type.ir, name, *operands))


def _dot4_pairs(a: Value, b: Value) -> Value:
    """For each four neighbouring bytes the sum of products: through i16, where all is exact."""
    wide_a, wide_b = a.to(i16), b.to(i16)
    half = a.lanes // 2
    sums: list[Value] = []
    for first in (0, half):
        lanes = range(first, first + half)
        sums.append(X86().pair_dot(wide_a.shuffle(lanes), wide_b.shuffle(lanes)))
    pairs = join(*sums)
    return pairs.shuffle(range(0, half, 2)) + pairs.shuffle(range(1, half, 2))
