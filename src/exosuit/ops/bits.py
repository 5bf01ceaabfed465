"""Numbers by their bits: random ones from a counter, logarithms, and thresholds by bisection."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.kernel import Value, constant, f32, i32, i64, loop, select, u32, u64, variable, when

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(seed: Value, counter: Value) -> Value:
    """A number of [0, 1), a multiple of 2**-24, from a seed and a counter.

    SplitMix64 (Steele, Lea, Flood 2014), its `counter`-th output.
    """
    z = seed + (counter.to(i64).view(u64) + 1) * _GOLDEN
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        z = (z ^ (z >> shift)) * factor
    z = z ^ (z >> 31)
    return (z >> 40).to(i32).to(f32) * 2.0**-24


def uniform_reference(seed: int, counter: int) -> float:
    """What the kernel draws."""
    z = (seed + (counter + 1) * _GOLDEN) % 2**64
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        z = (z ^ (z >> shift)) * factor % 2**64
    return ((z ^ (z >> 31)) >> 40) * 2.0**-24


def log(x: Value) -> Value:
    """The natural logarithm of a finite f32 of at least 1; relative error below 3e-7."""
    bits = x.view(i32)
    exponent = (bits >> 23) - 127
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).view(f32)
    high = mantissa > 1.4142135
    mantissa = select(high, mantissa * 0.5, mantissa)
    whole = (exponent + high.to(i32)).to(f32)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = constant(f32, 1 / 9)
    for k in (7, 5, 3, 1):
        series = series * square + 1 / k
    return whole * 0.6931471805599453 + s * series * 2.0


def bisect(holds: Callable[[Value], Value]) -> Value:
    """The largest f32 for which `holds`, which is true up to some number and false beyond.

    Bit by bit in the order of numbers: as unsigned integers with the sign's bit inverted, and all
    others too where it is set. Trials beyond the infinities are NaNs, for which nothing holds.
    """
    key = variable(constant(u32, 0))
    for bit in loop(32):
        trial = key.value | (constant(u32, 0x80000000) >> bit.view(u32))
        with when(holds(_number(trial))):
            key.value = trial
    return _number(key.value)


def _number(key: Value) -> Value:
    return select(key >= 0x80000000, key ^ 0x80000000, ~key).view(f32)
