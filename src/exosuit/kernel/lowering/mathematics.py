"""Elementary functions from arithmetic alone, for targets whose instructions have none.

Range reduction by Cody and Waite (a constant split in parts whose products are exact), then a
polynomial. Errors against float64 are in the tests: a few units in the last place of f32.
"""

from __future__ import annotations

from exosuit.kernel.language import fma, rint, select
from exosuit.kernel.types import i32
from exosuit.kernel.value import Value, constant_like

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
_TWO_OVER_PI = 0.6366197723675814
_HALF_PI = (1.5703125, 4.837512969970703125e-4, 7.549789948768648e-8)


def _polynomial(x: Value, coefficients: list[float]) -> Value:
    """Horner's rule, highest power first."""
    total = constant_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = fma(total, x, coefficient)
    return total


def exp(x: Value) -> Value:
    """f32; overflows to infinity above 88.7, underflows to 0 below -87.3 (no denormals)."""
    # Selects in this order, rather than minimum and maximum, let a NaN pass.
    below = select(x > 89.0, 89.0, x)
    clamped = select(below < -88.0, -88.0, below)
    whole = rint(clamped * _LOG2_E)
    rest = fma(whole, -_LN2_LOW, fma(whole, -_LN2_HIGH, clamped))
    series = _polynomial(rest, [1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0])
    # 2**whole in two factors, because 2**128 itself is not a float.
    exponent = whole.to(i32)
    half = exponent >> 1
    result = series * _power_of_two(half, x) * _power_of_two(exponent - half, x)
    return select(x < -87.33, 0.0, result)


def _power_of_two(exponent: Value, like: Value) -> Value:
    return ((exponent + 127) << 23).view(like.dtype)


def sincos(x: Value) -> tuple[Value, Value]:
    """f32 radians; absolute error below 1e-6 up to |x| of about 1e5."""
    quarter = rint(x * _TWO_OVER_PI)
    rest = x
    for part in _HALF_PI:
        rest = fma(quarter, -part, rest)
    square = rest * rest
    sine = fma(
        rest * square, _polynomial(square, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]),
        rest,
    )  # fmt: skip
    cosine = fma(
        square * square,
        _polynomial(square, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]),
        fma(square, -0.5, constant_like(x, 1.0)),
    )
    turn = quarter.to(i32)
    swap = (turn & 1).ne(0)
    sine_out, cosine_out = select(swap, cosine, sine), select(swap, sine, cosine)
    sine_out = select((turn & 2).ne(0), -sine_out, sine_out)
    cosine_out = select(((turn + 1) & 2).ne(0), -cosine_out, cosine_out)
    return sine_out, cosine_out
