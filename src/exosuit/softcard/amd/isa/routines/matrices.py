"""WMMA on registers in memory: 16 rows of C, each the sum of 16 broadcasts of A times rows of B.

See `isa.matrix` for where the elements lie. 16-bit results are computed in f32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exosuit.softcard.amd.isa.routines.writing import Routine
from exosuit.softcard.amd.isa.state import VECTOR_BYTES
from exosuit.softcard.translation.ir import Function, Lanes

_SIDE = 16


@dataclass(frozen=True)
class _Kind:
    """name of the routine; bits of an input element; how one becomes a factor; the output."""

    name: str
    bits: int
    factor: Callable[[Lanes, int, Lanes], Lanes]
    output: str


def _half(word: Lanes, k: int, flag: Lanes) -> Lanes:
    del flag
    return (word >> (16 * k)).to("i16").view("half").to("float")


def _bfloat(word: Lanes, k: int, flag: Lanes) -> Lanes:
    del flag
    return ((word << 16) if k == 0 else (word & 0xFFFF0000)).view("float")


def _integer(bits: int) -> Callable[[Lanes, int, Lanes], Lanes]:
    def factor(word: Lanes, k: int, flag: Lanes) -> Lanes:
        moved = word << (32 - bits - bits * k)
        return flag.splat(word.count).select(moved.ashr(32 - bits), moved >> (32 - bits))

    return factor


_KINDS = (
    _Kind("wmma_f32_f16", 16, _half, "float"),
    _Kind("wmma_f32_bf16", 16, _bfloat, "float"),
    _Kind("wmma_f16", 16, _half, "half"),
    _Kind("wmma_bf16", 16, _bfloat, "bf16"),
    _Kind("wmma_i32_iu8", 8, _integer(8), "i32"),
    _Kind("wmma_i32_iu4", 4, _integer(4), "i32"),
)


def routines() -> Iterator[Routine]:
    for kind in _KINDS:
        yield _product(kind)


def _product(kind: _Kind) -> Routine:
    """flags: of integers, bit 0 and 1 say that A and B are signed; of 16-bit results, the half."""
    routine = Routine(kind.name, "ptr %d, ptr %a, ptr %b, ptr %c, i32 %flags, i32 %exec")
    ir = routine.function
    flags = routine.argument("i32", "flags")
    size = "i32" if kind.output == "i32" else "float"
    table = ir.assign(f"alloca [{_SIDE * _SIDE} x i32], align 64")
    for k, row in enumerate(_factors(ir, kind, "%a", (flags & 1).to("i1"))):
        ir.store(row, ir.address(table, k * _SIDE * 4), 64)
    columns = list(_factors(ir, kind, "%b", ((flags >> 1) & 1).to("i1")))
    for row in range(_SIDE):
        offset = row // 2 * VECTOR_BYTES + row % 2 * _SIDE * 4
        total = _loaded(ir, kind, ir.address("%c", offset), flags)
        for k, column in enumerate(columns):
            place = ir.address(table, (k * _SIDE + row) * 4)
            broadcast = ir.load(size, 1, place, 4).splat(_SIDE)
            total = _added(total, broadcast, column)
        _stored(ir, kind, ir.address("%d", offset), total, flags)
    ir.emit("ret void")
    return routine


def _added(total: Lanes, a: Lanes, b: Lanes) -> Lanes:
    return a.fma(b, total) if total.is_float else total + a * b


def _factors(ir: Function, kind: _Kind, base: str, flag: Lanes) -> Iterator[Lanes]:
    """For each k the factors of the 16 rows (columns)."""
    per_word = 32 // kind.bits
    for register in range(_SIDE // per_word):
        word = ir.load("i32", _SIDE, ir.address(base, register * VECTOR_BYTES), 64)
        for k in range(per_word):
            yield kind.factor(word, k, flag)


def _loaded(ir: Function, kind: _Kind, place: str, flags: Lanes) -> Lanes:
    if kind.output in ("i32", "float"):
        return ir.load(kind.output, _SIDE, place, 64)
    word = ir.load("i32", _SIDE, place, 64) >> (flags << 4).splat(_SIDE)
    return kind.factor(word, 0, flags.to("i1"))


def _stored(ir: Function, kind: _Kind, place: str, total: Lanes, flags: Lanes) -> None:
    if kind.output in ("i32", "float"):
        ir.store(total, place, 64)
        return
    bits = _to_half(total) if kind.output == "half" else _to_bfloat(total)
    shift = (flags << 4).splat(_SIDE)
    old = ir.load("i32", _SIDE, place, 64)
    ir.store((old & ~(bits.like(0xFFFF) << shift)) | (bits << shift), place, 64)


def _to_half(x: Lanes) -> Lanes:
    return x.to("half").view("i16").to("i32")


def _to_bfloat(x: Lanes) -> Lanes:
    """A float rounded to even as bf16, in the low half of an i32."""
    bits = x.view("i32")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return x.compare("uno", x).select((bits >> 16) | 0x40, rounded)
