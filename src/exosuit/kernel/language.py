"""The words of the kernel language that are not operators.

A kernel is a Python function that runs once, while compiling: Python's own `for` over a `range`
unrolls, Python's own functions inline, Python values are compile-time parameters. What shall
happen while the kernel runs is said with these words:

    for i in loop(n): ...            a loop of the machine
    with when(x > 0): ...            a branch of the machine
    for i in each(n): ...            the lanes of the workgroup share the indices 0..n-1
    for i in deal(n): ...            the same, one whole body per index
    total = variable(zeros(f32))     something that changes: total.value += x
    group(), lane(), shared(), barrier(), group_sum(), shuffle_xor(), dot4(), mma(), atomic_add()
    with leader(): ...               one lane of the workgroup, for what is done once

Here are values, control and mathematics; `workgroup` has the words about lanes, `dots` those for
wider instructions; docs/kernel-language.md shows all of them at work.

One shape for two kinds of machine: on a GPU a workgroup is `group_size` lanes and a value is one
lane's scalar; on a CPU a workgroup is one call and a value under `each` is a SIMD vector. Kernels
written with `each` and the group's reductions run on both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from exosuit.kernel.builder import current, kernel_place, refuse
from exosuit.kernel.lowering import lowering
from exosuit.kernel.target import Target
from exosuit.kernel.types import DTypeClass, Type, bf16, f16, f32, i32
from exosuit.kernel.value import (
    Value,
    Variable,
    constant,
    constant_like,
    integer,
    is_narrow,
    join,
    match_lanes,
)


def target() -> Target:
    """What is being compiled for; a compile-time value."""
    return current().target


# Values ---------------------------------------------------------------------------------------


def zeros(dtype: DTypeClass, lanes: int = 1) -> Value:
    return constant(dtype, 0, lanes)


def variable(initial: Value) -> Variable:
    """A value that can be assigned to, starting with `initial`."""
    return Variable(initial)


def vector(dtype: DTypeClass, values: list[int]) -> Value:
    """A vector of integer constants, one per lane."""
    type = Type(dtype, len(values))
    return Value(type, "<" + ", ".join(f"{dtype.ir} {x}" for x in values) + ">")


def concatenate(a: Value, b: Value) -> Value:
    """The lanes of `a`, then those of `b`, which has as many."""
    if a.lanes != b.lanes:
        raise refuse(f"{a.type} before {b.type}", "join() takes parts of different widths")
    return join(a, b)


def select(condition: Value, yes: Value | float, no: Value | float) -> Value:
    """`yes` in the lanes where `condition` holds, else `no`; both sides are computed."""
    if not isinstance(yes, Value):
        if not isinstance(no, Value):
            raise refuse("select of two Python numbers", "one side must be a value with a type")
        yes = constant_like(no, yes)
    yes, no = match_lanes(yes, constant_like(yes, no))
    lanes = max(yes.lanes, condition.lanes)
    yes, no = yes.splat(lanes), no.splat(lanes)
    if condition.lanes != lanes:
        condition = condition.splat(lanes)
    text = current().assign(f"select {condition.typed}, {yes.typed}, {no.typed}")
    return Value(yes.type, text)


def _intrinsic(name: str, x: Value, *others: Value) -> Value:
    if is_narrow(x.dtype):
        return _intrinsic(name, x.to(f32), *(other.to(f32) for other in others)).to(x.dtype)
    operands = [(v.type.ir, v.ir) for v in (x, *others)]
    text = current().call(x.type.ir, f"llvm.{name}.{x.type.suffix}", *operands)
    return Value(x.type, text)


def minimum(a: Value, b: Value | float) -> Value:
    """The lesser; of a number and a NaN the number."""
    a, b = match_lanes(a, constant_like(a, b))
    if is_narrow(a.dtype):
        return _pick(a < b, a, b)
    prefix = {"float": "minnum", "int": "smin", "uint": "umin"}[a.dtype.kind]
    return _intrinsic(prefix, a, b)


def maximum(a: Value, b: Value | float) -> Value:
    """The greater; of a number and a NaN the number."""
    a, b = match_lanes(a, constant_like(a, b))
    if is_narrow(a.dtype):
        return _pick(a > b, a, b)
    prefix = {"float": "maxnum", "int": "smax", "uint": "umax"}[a.dtype.kind]
    return _intrinsic(prefix, a, b)


def _pick(first: Value, a: Value, b: Value) -> Value:
    """`a` where `first` holds or `b` is a NaN. LLVM would narrow minnum back to the library's."""
    return select(first | b.ne(b), a, b)


def fma(a: Value, b: Value | float, c: Value | float) -> Value:
    """`a * b + c`, rounded once."""
    if a.dtype is bf16:
        raise refuse("fma of bf16", "no chip rounds it once; convert to f32")
    if a.dtype is f16:
        current().require("f16", "fma of f16")
    b, c = constant_like(a, b), constant_like(a, c)
    lanes = max(a.lanes, b.lanes, c.lanes)
    return _intrinsic("fma", a.splat(lanes), b.splat(lanes), c.splat(lanes))


def absolute(x: Value) -> Value:
    if x.type.is_float:
        return _intrinsic("fabs", x)
    name = f"llvm.abs.{x.type.suffix}"
    text = current().call(x.type.ir, name, (x.type.ir, x.ir), ("i1 immarg", "false"))
    return Value(x.type, text)


def floor(x: Value) -> Value:
    return _intrinsic("floor", x)


def rint(x: Value) -> Value:
    """To the nearest whole number, ties to even, as a float."""
    return _intrinsic("rint", x)


def sqrt(x: Value) -> Value:
    return _intrinsic("sqrt", x)


def copysign(magnitude: Value, sign: Value) -> Value:
    return _intrinsic("copysign", magnitude, sign)


# Control --------------------------------------------------------------------------------------


def loop(
    stop: Value | int, start: Value | int = 0, step: int = 1, unroll: int | None = None
) -> Iterator[Value]:
    """Indices from `start` below `stop`, counted while the kernel runs.

    unroll  bodies per turn of the machine's loop; 1 forbids LLVM to unroll, None lets it choose
    """
    builder = current()
    dtype = next((v.dtype for v in (stop, start) if isinstance(v, Value)), i32)
    first, last = integer(start, dtype), integer(stop, dtype)
    number = builder.fresh("")
    index = Variable(first)
    builder.jump(f"head{number}")
    builder.begin_block(f"head{number}")
    value = index.value
    builder.branch((value < last).ir, f"body{number}", f"exit{number}")
    builder.begin_block(f"body{number}")
    mask = builder.mask
    # A `break` or `return` in the body never comes back here; `Kernel.trace` finds the loop open.
    builder.open_loops.append(kernel_place())
    yield value
    builder.open_loops.pop()
    builder.mask = None
    index.value = value + step
    builder.mask = mask
    builder.jump(f"head{number}", _unroll_metadata(unroll))
    builder.begin_block(f"exit{number}")


def _unroll_metadata(count: int | None) -> str:
    if count is None:
        return ""
    builder = current()
    number = len(builder.metadata)
    how = '!"llvm.loop.unroll.disable"' if count == 1 else f'!"llvm.loop.unroll.count", i32 {count}'
    builder.metadata.append(f"!{number} = distinct !{{!{number}, !{number + 1}}}")
    builder.metadata.append(f"!{number + 1} = !{{{how}}}")
    return f", !llvm.loop !{number}"


@contextmanager
def when(condition: Value) -> Generator[None]:
    """The body runs where the scalar `condition` holds."""
    if condition.lanes != 1:
        raise refuse("when() of a vector", "lanes of a CPU vector branch together; use select()")
    builder = current()
    number = builder.fresh("")
    builder.branch(condition.ir, f"then{number}", f"after{number}")
    builder.begin_block(f"then{number}")
    yield
    builder.jump(f"after{number}")
    builder.begin_block(f"after{number}")


@contextmanager
def masked(mask: Value | None) -> Generator[None]:
    """Within, loads, stores and assignments of lanes happen only where `mask` holds; None is all.

    A mask of one lane, which is what lanes of a GPU have, is a branch.
    """
    if mask is None:
        yield
        return
    with when(mask) if mask.lanes == 1 else current().masked(mask):
        yield


# Mathematics ----------------------------------------------------------------------------------


def exp(x: Value) -> Value:
    """e**x of f32. Below -87.3 it is 0 (no denormals)."""
    return lowering().exp(_f32_only("exp", x))


def rsqrt(x: Value) -> Value:
    """1 / sqrt(x) of f32; by the chip's approximation (about 1e-7 relative) on a GPU."""
    return lowering().rsqrt(_f32_only("rsqrt", x))


def reciprocal(x: Value) -> Value:
    """1 / x of f32; by the chip's approximation (about 1e-7 relative) on a GPU."""
    return lowering().reciprocal(_f32_only("reciprocal", x))


def _f32_only(word: str, x: Value) -> Value:
    if x.dtype is not f32:
        raise refuse(f"{word} of {x.type}", "convert it first: .to(f32)")
    return x


def sincos(x: Value) -> tuple[Value, Value]:
    """Sine and cosine of f32 radians, |x| up to about a million."""
    return lowering().sincos(_f32_only("sincos", x))


def sigmoid(x: Value) -> Value:
    return reciprocal(exp(-x) + 1.0)


def tanh(x: Value) -> Value:
    # exp overflows to infinity for large x and 2/inf is the right 0.
    return 1.0 - reciprocal(exp(x * 2.0) + 1.0) * 2.0


__all__ = [
    "absolute", "concatenate", "constant", "copysign", "exp", "floor", "fma", "integer", "join",
    "loop", "masked", "maximum", "minimum", "reciprocal", "rint", "rsqrt", "select", "sigmoid",
    "sincos", "sqrt", "tanh", "target", "variable", "vector", "when", "zeros",
]  # fmt: skip
