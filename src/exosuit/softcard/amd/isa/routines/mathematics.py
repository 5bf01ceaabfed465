"""Transcendental functions of 32 lanes of f32, computed in f64: nearer than the hardware's.

Series are Taylor's on a range so small that eight to twelve terms leave less than half a unit in
the last place of f32. sine and cosine take their angle in revolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from exosuit.softcard.amd.isa.routines.writing import Routine
from exosuit.softcard.translation.ir import WAVE, Lanes


def routines() -> Iterator[Routine]:
    for name, compute in _FUNCTIONS.items():
        vector = f"<{WAVE} x float>"
        routine = Routine(name, f"{vector} %x", result=vector)
        result = compute(routine.argument("float", "x", WAVE))
        routine.function.emit(f"ret {result.typed}")
        yield routine


def _polynomial(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """The sum of coefficients[k] * x**k."""
    total = x.like(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total.fma(x, coefficient)
    return total


def _exp2(x: Lanes) -> Lanes:
    near = x.compare("olt", 160.0).select(x, 160.0)  # NaN becomes 160 and is put back below
    near = near.compare("ogt", -160.0).select(near, -160.0)
    wide = near.to("double")
    whole = wide.call("roundeven")
    rest = wide - whole
    terms = [math.log(2) ** k / math.factorial(k) for k in range(10)]
    power = ((whole.to("i64", signed=True) + 1023) << 52).view("double")
    found = (_polynomial(rest, terms) * power).to("float")
    return x.compare("uno", x).select(x, found)


def _log2(x: Lanes) -> Lanes:
    bits = x.view("i32")
    # The mantissa in [0.70, 1.41): where it is large, half of it and one more in the exponent.
    shifted = bits - 0x3F350000
    exponent = shifted.ashr(23)
    mantissa = ((shifted & 0x7FFFFF) + 0x3F350000).view("float").to("double")
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = _polynomial(square, [2 / math.log(2) / (2 * k + 1) for k in range(9)])
    found = (series.fma(ratio, exponent.to("double", signed=True))).to("float")
    found = x.eq(float("inf")).select(x, found)
    found = x.eq(0.0).select(found.like(float("-inf")), found)
    return x.compare("uge", 0.0).select(x.compare("uno", x).select(x, found), float("nan"))


def _turned(x: Lanes, quarter: int) -> Lanes:
    """The sine of x + quarter / 4 revolutions."""
    wide = x.to("double")
    turns = wide - wide.call("floor")
    quadrant = (turns * 4.0).call("roundeven")
    angle = (turns - quadrant * 0.25) * (2 * math.pi)
    number = quadrant.to("i64", signed=True) + quarter
    square = angle * angle
    sine = _polynomial(square, [(-1) ** k / math.factorial(2 * k + 1) for k in range(7)]) * angle
    cosine = _polynomial(square, [(-1) ** k / math.factorial(2 * k) for k in range(8)])
    found = (number & 1).ne(0).select(cosine, sine)
    return ((number & 2).ne(0).select(-found, found)).to("float")


def _inverse_root(x: Lanes) -> Lanes:
    root = x.to("double").call("sqrt")
    return (root.like(1.0) / root).to("float")


_FUNCTIONS: dict[str, Callable[[Lanes], Lanes]] = {
    "exp2": _exp2,
    "log2": _log2,
    "sine": lambda x: _turned(x, 0),
    "cosine": lambda x: _turned(x, 1),
    "reciprocal": lambda x: x.like(1.0) / x,
    "inverse_root": _inverse_root,
}
