"""Functions that PTX approximates, from polynomials and the host's exact operations, in f32.

Errors are at most two units in the last place, as PTX ISA 9.0 promises of ex2, lg2, rcp and rsqrt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from exosuit.softcard.translation.ir import Lanes


def flushed(value: Lanes) -> Lanes:
    """Zero, of the same sign, for what is too small to be normal; f32 only."""
    if value.kind != "float":
        return value
    bits = value.view("i32")
    small = (bits & 0x7F80_0000).eq(0)
    return small.select(bits & -0x8000_0000, bits).view("float")


def exp2(x: Lanes) -> Lanes:
    """2**x: a whole power by its exponent, the rest by a polynomial on -0.5..0.5."""
    bounded = x.call("maxnum", -160.0).call("minnum", 130.0)
    whole = bounded.call("roundeven")
    part = bounded - whole
    total = x.like(math.log(2) ** 7 / math.factorial(7))
    for k in range(6, -1, -1):
        total = total.fma(part, math.log(2) ** k / math.factorial(k))
    # In two steps, since 2**-150 and 2**128 have no exponent of their own.
    power = whole.to("i32", signed=True)
    half = power.ashr(1)
    for step in (half, power - half):
        total = total * ((step + 127) << 23).view("float")
    return x.compare("uno", x).select(x, total)


def log2(x: Lanes) -> Lanes:
    return x.call("log2")


def sine(x: Lanes) -> Lanes:
    return x.call("sin")


def cosine(x: Lanes) -> Lanes:
    return x.call("cos")


def tanh(x: Lanes) -> Lanes:
    """1 - 2 / (exp(2x) + 1)."""
    power = exp2(x * (2 / math.log(2)))
    return x.like(1.0) - x.like(2.0) / (power + 1.0)


FUNCTIONS: dict[str, Callable[[Lanes], Lanes]] = {
    "ex2": exp2, "lg2": log2, "sin": sine, "cos": cosine, "tanh": tanh,
}  # fmt: skip
