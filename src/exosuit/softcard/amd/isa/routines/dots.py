"""Sums of products of bytes: two dozen instructions each, and hundreds of them in a program."""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.softcard.amd.isa.routines.writing import Routine
from exosuit.softcard.translation.ir import WAVE, Lanes, type_name


def routines() -> Iterator[Routine]:
    """`dot_bytes_N(a, b)`: bit n of N says whether source n is signed."""
    kind = type_name("i32", WAVE)
    for signs in range(4):
        routine = Routine(f"dot_bytes_{signs}", f"{kind} %a, {kind} %b", kind)
        a, b = (routine.argument("i32", name, WAVE) for name in "ab")
        routine.function.emit(f"ret {_dot_bytes(a, b, signs).typed}")
        yield routine


def _dot_bytes(a: Lanes, b: Lanes, signs: int) -> Lanes:
    """Sums of four products of bytes, by way of 16-bit fields, which hold each byte exactly."""
    total = a.like(0)
    for odd in (False, True):
        fields: list[Lanes] = []
        for n, x in enumerate((a, b)):
            pairs = x.view("i16", 2 * x.count)
            if signs >> n & 1:
                pairs = pairs.ashr(8) if odd else (pairs << 8).ashr(8)
            else:
                pairs = pairs >> 8 if odd else pairs & 255
            fields.append(pairs)
        total = total + _pair_products(*fields)
    return total


def _pair_products(a: Lanes, b: Lanes) -> Lanes:
    """Of neighbouring i16 the sum of products, i32; LLVM knows x86's instruction in this form."""
    products = a.to("i32", signed=True) * b.to("i32", signed=True)
    even, odd = range(0, a.count, 2), range(1, a.count, 2)
    return products.shuffle(even) + products.shuffle(odd)
