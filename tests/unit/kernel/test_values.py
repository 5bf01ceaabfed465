"""Arithmetic, comparison, conversion and the handling of lanes, against NumPy.

Integers are exact; floats are compared bit for bit where IEEE fixes the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exosuit.errors import CompileFailed
from exosuit.kernel import (
    In,
    Kernel,
    Out,
    Scalar,
    Target,
    absolute,
    bf16,
    boolean,
    concatenate,
    constant,
    copysign,
    each,
    emit,
    f16,
    f32,
    f64,
    floor,
    fma,
    i8,
    i16,
    i32,
    i64,
    join,
    kernel,
    maximum,
    minimum,
    rint,
    select,
    sqrt,
    u8,
    u16,
    u32,
    u64,
    vector,
)
from exosuit.kernel.types import DTypeClass

N = 16
NUMPY = {
    i8: np.int8, i16: np.int16, i32: np.int32, i64: np.int64,
    u8: np.uint8, u16: np.uint16, u32: np.uint32, u64: np.uint64,
    f16: np.float16, f32: np.float32, f64: np.float64, bf16: np.uint16,
}  # fmt: skip
INTEGERS = [i8, i16, i32, i64, u8, u16, u32, u64]
FLOATS = [f16, f32, f64]


def name(dtype: DTypeClass) -> str:
    return dtype.__name__


def unary(function: Any, source: DTypeClass, to: DTypeClass, lanes: int = N) -> Kernel:
    """A kernel that applies `function` to `lanes` elements at once."""

    def apply(x, y):
        y.store(function(x.load(0, lanes)), 0)

    apply.__annotations__ = {"x": In[source], "y": Out[to]}
    return kernel(apply)


def binary(function: Any, source: DTypeClass, to: DTypeClass, lanes: int = N) -> Kernel:
    def apply(a, b, y):
        y.store(function(a.load(0, lanes), b.load(0, lanes)), 0)

    apply.__annotations__ = {"a": In[source], "b": In[source], "y": Out[to]}
    return kernel(apply)


def bf16_to_float(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float_to_bf16(x: Any) -> Any:
    """Round to nearest even by NumPy's own float32 arithmetic on bits."""
    bits = np.atleast_1d(x).astype(np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def interesting(dtype: DTypeClass, seed: int = 0) -> Any:
    """Sixteen numbers with the extremes of the type among them."""
    rng = np.random.default_rng(seed)
    if dtype in FLOATS:
        base = np.concatenate([[0.0, -0.0, 1.5, -2.5, 0.5, 3.5], rng.standard_normal(10) * 50])
        return base.astype(NUMPY[dtype])
    limits = np.iinfo(NUMPY[dtype])
    values = [limits.min, limits.max, 0, 1, 7, limits.max - 1, limits.min + 1, 3]
    values += [int(v) for v in rng.integers(max(limits.min, -100), 100, 8)]
    return np.array(values, NUMPY[dtype])


# Integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS, ids=name)
def test_integer_arithmetic_wraps(run_host, dtype):
    a, b = interesting(dtype), interesting(dtype, 1)[::-1].copy()
    operations = {
        "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
        "and": lambda x, y: x & y, "or": lambda x, y: x | y, "xor": lambda x, y: x ^ y,
        "reflected": lambda x, y: (5 - x) + (2 * y),
        "invert": lambda x, y: ~x, "negate": lambda x, y: -y,
    }  # fmt: skip
    for operation in operations.values():
        out = np.zeros(N, NUMPY[dtype])
        run_host(binary(operation, dtype, dtype), a, b, out)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(out, operation(a, b))


@pytest.mark.parametrize("dtype", INTEGERS, ids=name)
def test_division_truncates_towards_zero(run_host, dtype):
    a, b = interesting(dtype), interesting(dtype, 3)
    b[b == 0] = 3
    b[b == NUMPY[dtype](-1) if dtype.kind == "int" else b < 0] = 5  # min // -1 has no result
    quotient, rest = np.zeros((2, N), NUMPY[dtype])
    run_host(binary(lambda x, y: x // y, dtype, dtype), a, b, quotient)
    run_host(binary(lambda x, y: x % y, dtype, dtype), a, b, rest)
    exact = [
        abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1)
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_array_equal(quotient, np.array(exact, NUMPY[dtype]))
    np.testing.assert_array_equal(
        rest,
        np.array([int(x) - q * int(y) for x, y, q in zip(a, b, exact, strict=True)], NUMPY[dtype]),
    )


@pytest.mark.parametrize("dtype", INTEGERS, ids=name)
def test_shifts_follow_the_sign(run_host, dtype):
    a = interesting(dtype)
    for count in (0, 1, dtype.bits - 1):
        left, right = np.zeros((2, N), NUMPY[dtype])
        run_host(unary(lambda x, c=count: x << c, dtype, dtype), a, left)
        run_host(unary(lambda x, c=count: x >> c, dtype, dtype), a, right)
        np.testing.assert_array_equal(left, a << NUMPY[dtype](count))
        np.testing.assert_array_equal(right, a >> NUMPY[dtype](count))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=name)
def test_comparison_select_minimum_maximum(run_host, dtype):
    a, b = interesting(dtype), interesting(dtype, 1)
    b[:4] = a[:4]
    relations = {
        "lt": (lambda x, y: x < y, np.less), "le": (lambda x, y: x <= y, np.less_equal),
        "gt": (lambda x, y: x > y, np.greater), "ge": (lambda x, y: x >= y, np.greater_equal),
        "eq": (lambda x, y: x.eq(y), np.equal), "ne": (lambda x, y: x.ne(y), np.not_equal),
    }  # fmt: skip
    for relation, expected in relations.values():
        out = np.zeros(N, np.uint8)
        run_host(binary(lambda x, y, r=relation: r(x, y).to(u8), dtype, u8), a, b, out)
        np.testing.assert_array_equal(out, expected(a, b).astype(np.uint8))
    for word, expected in ((minimum, np.minimum), (maximum, np.maximum)):
        out = np.zeros(N, NUMPY[dtype])
        run_host(binary(word, dtype, dtype), a, b, out)
        np.testing.assert_array_equal(out, expected(a, b))
    out = np.zeros(N, NUMPY[dtype])
    run_host(binary(lambda x, y: select(x < y, x, 7), dtype, dtype), a, b, out)
    np.testing.assert_array_equal(out, np.where(a < b, a, NUMPY[dtype](7)))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_the_number_wins_over_nan(run, dtype):
    number, nan = np.full(N, -3, NUMPY[dtype]), np.full(N, np.nan, NUMPY[dtype])
    for word in (minimum, maximum):
        for a, b in ((number, nan), (nan, number)):
            out = np.zeros(N, NUMPY[dtype])
            run(binary(word, dtype, dtype), a, b, out)
            np.testing.assert_array_equal(out, number)


def test_comparison_with_nan_is_false(run_host):
    a, b = np.full(N, np.nan, np.float32), np.ones(N, np.float32)
    for relation, expected in (
        (lambda x, y: x < y, 0), (lambda x, y: x >= y, 0),
        (lambda x, y: x.eq(y), 0), (lambda x, y: x.ne(y), 1),
    ):  # fmt: skip
        out = np.full(N, 9, np.uint8)
        run_host(binary(lambda x, y, r=relation: r(x, y).to(u8), f32, u8), a, b, out)
        assert (out == expected).all()


@pytest.mark.parametrize("dtype", [i8, i16, i32, i64], ids=name)
def test_absolute_of_integers(run_host, dtype):
    a, out = interesting(dtype), np.zeros(N, NUMPY[dtype])
    run_host(unary(absolute, dtype, dtype), a, out)
    np.testing.assert_array_equal(out, np.abs(a))  # the least number stays itself, as in NumPy


# Floats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_float_arithmetic_is_ieee(run, dtype):
    a, b = interesting(dtype), interesting(dtype, 2)
    b[b == 0] = 3
    for operation in (
        lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: x / y,
        lambda x, y: 1.0 / (2.0 - y) + (-x),
    ):  # fmt: skip
        out = np.zeros(N, NUMPY[dtype])
        run(binary(operation, dtype, dtype), a, b, out)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(out, operation(a, b).astype(NUMPY[dtype]))


def test_bf16_arithmetic_is_rounded_f32_arithmetic(run):
    a, b = (float_to_bf16(interesting(f32, seed)) for seed in (0, 4))
    wide_a, wide_b = bf16_to_float(a), bf16_to_float(b)
    for operation, expected in (
        (lambda x, y: x + y, lambda x, y: x + y),
        (lambda x, y: x * y - 1.0, lambda x, y: bf16_to_float(float_to_bf16(x * y)) - 1),
        (lambda x, y: x / y, lambda x, y: x / y),
        (lambda x, y: -sqrt(absolute(x)), lambda x, y: -np.sqrt(np.abs(x))),
        (minimum, np.minimum),
        (lambda x, y: rint(floor(x * 3.0) * 0.25),
         lambda x, y: np.rint(np.floor(bf16_to_float(float_to_bf16(x * np.float32(3)))) / 4)),
        (lambda x, y: select(x < y, x, y), lambda x, y: np.where(x < y, x, y)),
    ):  # fmt: skip
        out = np.zeros(N, np.uint16)
        as_bits = lambda x, y, o=operation: o(x.view(bf16), y.view(bf16)).view(u16)  # noqa: E731
        run(binary(as_bits, u16, u16), a, b, out)
        with np.errstate(all="ignore"):
            want = float_to_bf16(expected(wide_a, wide_b))
        np.testing.assert_array_equal(bf16_to_float(out), bf16_to_float(want))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_rounding_and_roots(run, dtype):
    a = interesting(dtype)
    for word, expected in (
        (floor, np.floor), (rint, np.rint), (absolute, np.abs),
        (lambda x: sqrt(absolute(x)), lambda x: np.sqrt(np.abs(x))),
        (lambda x: copysign(x, -absolute(x)), lambda x: np.copysign(x, NUMPY[dtype](-1))),
    ):  # fmt: skip
        out = np.zeros(N, NUMPY[dtype])
        run(unary(word, dtype, dtype), a, out)
        np.testing.assert_array_equal(out, expected(a))


@pytest.mark.parametrize("dtype", [f32, f64], ids=name)
def test_fma_rounds_once(run, dtype):
    """1 + 2**-k squared, less its own rounded square, is lost by two roundings."""
    small = 2.0 ** -(13 if dtype is f32 else 28)
    a = np.full(N, 1 + small, NUMPY[dtype])
    b = -(a * a)
    out = np.zeros(N, NUMPY[dtype])
    run(binary(lambda x, y: fma(x, x, y), dtype, dtype), a, b, out)
    assert (out == small * small).all()


# Conversions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [*INTEGERS, *FLOATS], ids=name)
@pytest.mark.parametrize("to", [*INTEGERS, *FLOATS], ids=name)
def test_conversions(run_host, source, to):
    a, out = interesting(source), np.zeros(N, NUMPY[to])
    if source in FLOATS and to in INTEGERS:
        a = np.clip(np.abs(a) if to.kind == "uint" else a, -120, 120)
    with np.errstate(over="ignore"):
        expected = a.astype(NUMPY[to])
    run_host(unary(lambda x: x.to(to), source, to), a, out)
    if source is u64 and to is f16:
        expected = np.where(a > 65504, np.inf, expected)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [f16, bf16], ids=name)
def test_every_bit_pattern_survives_a_round_trip(run, dtype):
    @kernel
    def there_and_back(bits: In[u16], wide: Out[f32], again: Out[u16]) -> None:
        for i in each(65536):
            number = bits[i].view(dtype).to(f32)
            wide[i] = number
            again[i] = number.to(dtype).view(u16)

    bits = np.arange(65536, dtype=np.uint16)
    wide, again = np.zeros(65536, np.float32), np.zeros(65536, np.uint16)
    run(there_and_back, bits, wide, again)
    widen = bf16_to_float if dtype is bf16 else lambda b: b.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(wide, widen(bits))
    number = ~np.isnan(wide)
    np.testing.assert_array_equal(again[number], bits[number])
    assert np.isnan(widen(again[~number])).all()


SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, -0.0, 65504, 65519, 65520, 1e-8, 6e-8, 3.3895e38,
     1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, -1e-40, 2**-24 * 1.5],
    np.float32,
)  # fmt: skip


def test_rounding_to_f16_and_bf16_at_the_edges(run):
    """Ties to even, overflow to infinity, subnormals, NaN."""
    half, brain = np.zeros(N, np.float16), np.zeros(N, np.uint16)
    run(unary(lambda x: x.to(f16), f32, f16), SPECIAL, half)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, SPECIAL.astype(np.float16))
    run(unary(lambda x: x.to(bf16), f32, bf16), SPECIAL, brain)
    np.testing.assert_array_equal(brain, float_to_bf16(SPECIAL))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=name)
def test_constants_round_to_nearest(run_host, dtype):
    for number in (0.1, -1 / 3, 1 + 3 * 2**-9):
        out = np.zeros(N, np.uint16)
        add = unary(lambda x, v=number: (x.view(dtype) + v).view(u16), u16, u16)
        run_host(add, np.zeros(N, np.uint16), out)
        expected = np.float16(number).view(np.uint16) if dtype is f16 else float_to_bf16(number)[0]
        assert (out == expected).all()


def test_no_conversion_calls_a_library(cpu):
    """A kernel's object is complete in itself: nobody would link it."""
    target = Target.named(cpu)
    for source in (*INTEGERS, *FLOATS, bf16):
        for to in (*FLOATS, bf16, i64, u64):
            ir = unary(lambda x, d=to: x.to(d), source, to, 4).trace(target).ir
            code = emit(ir, target, assembly=True).decode()
            calls = [
                line.strip() for line in code.splitlines() if "\tcall" in line or "\tbl\t" in line
            ]
            assert not calls, f"{source.__name__} to {to.__name__}: {calls}"


# Lanes ----------------------------------------------------------------------------------------


def test_views_reinterpret_bits(run_host):
    a, out = np.arange(N, dtype=np.uint8) * 17, np.zeros(4, np.int32)
    run_host(unary(lambda x: x.view(i32), u8, i32), a, out)
    np.testing.assert_array_equal(out, a.view(np.int32))


def test_shuffle_concatenate_join_splat_lane(run_host):
    a = np.arange(N, dtype=np.int32)
    out = np.zeros(N, np.int32)
    run_host(unary(lambda x: x.shuffle(range(15, -1, -1)), i32, i32), a, out)
    np.testing.assert_array_equal(out, a[::-1])
    run_host(
        unary(lambda x: concatenate(x.shuffle(range(8, 16)), x.shuffle(range(8))), i32, i32), a, out
    )
    np.testing.assert_array_equal(out, np.roll(a, 8))
    run_host(unary(lambda x: concatenate(x[3], x[5]), i32, i32), a, out[:2])
    np.testing.assert_array_equal(out[:2], [3, 5])
    run_host(
        unary(lambda x: join(x.shuffle(range(10)), *(x[k] for k in range(6))), i32, i32), a, out
    )
    np.testing.assert_array_equal(out, [*range(10), *range(6)])
    run_host(unary(lambda x: x[5].splat(N) + vector(i32, list(range(N))), i32, i32), a, out)
    np.testing.assert_array_equal(out, a + 5)


@pytest.mark.parametrize("dtype", [i8, u8, i32, u32, f32, f64], ids=name)
def test_reductions_of_a_vector(run, dtype):
    a = interesting(dtype)
    with np.errstate(over="ignore"):
        total = a.sum(dtype=NUMPY[dtype])
    for operation, expected in (("add", total), ("max", a.max()), ("min", a.min())):
        out = np.zeros(1, NUMPY[dtype])
        run(unary(lambda x, o=operation: x.reduce(o), dtype, dtype), a, out)
        if operation == "add" and dtype in FLOATS:
            np.testing.assert_allclose(out[0], expected, rtol=1e-5)
        else:
            assert out[0] == expected


def test_scalar_parameters_of_every_type(run_host):
    @kernel
    def scalars(
        out: Out[f64], a: Scalar[i32], b: Scalar[u32], c: Scalar[i64], d: Scalar[u64],
        e: Scalar[f32],
    ) -> None:  # fmt: skip
        for k, value in enumerate((a, b, c, d, e)):
            out[k] = value.to(f64)

    out = np.zeros(5)
    run_host(scalars, out, -3, 4_000_000_000, -(2**40), 2**40, 0.1)
    np.testing.assert_array_equal(out, [-3, 4e9, -(2**40), 2**40, np.float32(0.1)])


# Mistakes -------------------------------------------------------------------------------------

MISTAKES = {
    "mixed types": lambda x: x + x.to(f32),
    "mixed signs of floats and integers": lambda x: x & 1.5,
    "fraction in an integer": lambda x: x + 0.5,
    "out of range": lambda x: x + 2**40,
    "true division": lambda x: x / 2,
    "Python branch": lambda x: x + 1 if x else x,
    "uneven view": lambda x: x.shuffle(range(3)).view(f64),
    "splat of a vector": lambda x: x.splat(4),
    "store of another type": lambda x: x.to(i64),
    "select of numbers": lambda x: select(x > 0, 1, 2),
    "join of types": lambda x: join(x, x.to(i64)),
    "half too large": lambda x: constant(f16, 1e6).to(i32),
    "fma of bf16": lambda x: fma(x.to(bf16), x.to(bf16), x.to(bf16)).to(i32),
    "boolean arithmetic": lambda x: (x > 0).view(boolean) / 2,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_line(mistake):
    function = MISTAKES[mistake]
    with pytest.raises(CompileFailed) as refused:
        unary(function, i32, i32).trace(Target.host())
    line = function.__code__.co_firstlineno
    place = refused.value.fields["place"]
    own = (f"test_values.py:{line}", f"test_values.py:{unary.__code__.co_firstlineno + 4}")
    assert place.endswith(own), place
    assert refused.value.cause
    assert refused.value.next


def test_writing_through_in_is_refused():
    @kernel
    def writes(x: In[f32]) -> None:
        x[0] = 1.0

    with pytest.raises(CompileFailed, match="a store through an In pointer"):
        writes.trace(Target.host())
