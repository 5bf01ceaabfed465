"""The words of the kernel language that are not operators.

A kernel is a Python function that runs once, while compiling: Python's own `for` over a `range`
unrolls, Python's own functions inline, Python values are compile-time parameters. What shall
happen while the kernel runs is said with these words:

    for i in loop(n): ...            a loop of the machine
    with when(x > 0): ...            a branch of the machine
    for i in each(n): ...            the lanes of the workgroup share the indices 0..n-1
    total = variable(zeros(f32))     something that changes: total.value += x
    group(), lane(), shared(), barrier(), group_sum(), shuffle_xor(), dot4(), mma(), atomic_add()

One shape for two kinds of machine: on a GPU a workgroup is `group_size` lanes and a value is one
lane's scalar; on a CPU a workgroup is one call and a value under `each` is a SIMD vector. Kernels
written with `each` and the group's reductions run on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.lowering import lowering
from exosuit.kernel.target import Target
from exosuit.kernel.types import DType, DTypeClass, Type, boolean, f32, i32, u8
from exosuit.kernel.value import (
    Lanes,
    Pointer,
    Value,
    Variable,
    constant,
    constant_like,
    integer,
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
    return a.shuffle(range(2 * a.lanes), b)


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
    operands = [(v.type.ir, v.ir) for v in (x, *others)]
    text = current().call(x.type.ir, f"llvm.{name}.{x.type.suffix}", *operands)
    return Value(x.type, text)


def minimum(a: Value, b: Value | float) -> Value:
    a, b = match_lanes(a, constant_like(a, b))
    prefix = {"float": "minnum", "int": "smin", "uint": "umin"}[a.dtype.kind]
    return _intrinsic(prefix, a, b)


def maximum(a: Value, b: Value | float) -> Value:
    a, b = match_lanes(a, constant_like(a, b))
    prefix = {"float": "maxnum", "int": "smax", "uint": "umax"}[a.dtype.kind]
    return _intrinsic(prefix, a, b)


def fma(a: Value, b: Value | float, c: Value | float) -> Value:
    """`a * b + c`, rounded once."""
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
    yield value
    if builder.mask is not mask:
        raise refuse("a loop left in the middle", "break and return have no meaning here")
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
def when(condition: Value) -> Iterator[None]:
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
def masked(mask: Value | None) -> Iterator[None]:
    """Within, loads, stores and assignments of lanes happen only where `mask` holds; None is all.

    For vectors of a CPU; lanes of a GPU take branches instead.
    """
    if mask is None:
        yield
        return
    with current().masked(mask):
        yield


# The workgroup --------------------------------------------------------------------------------


def group() -> Value:
    """Which workgroup this is, i32, from 0."""
    return lowering().group()


def lane() -> Value:
    """Which lane of the workgroup this is, i32; on a CPU a vector of all of them."""
    return lowering().lane()


def each(count: Value | int) -> Iterator[Value]:
    """Indices 0..count-1, shared among the lanes of the workgroup; neighbours go to neighbours.

    On a CPU the body is compiled for a full vector and, where needed, once more for the rest with
    the surplus lanes switched off: loads of them give 0, stores and assignments skip them.
    """
    builder = current()
    if builder.target.is_gpu:
        yield from loop(count, start=lane(), step=builder.group_size)
        return
    lanes = builder.target.lanes
    whole = count // lanes * lanes
    for first in loop(whole, step=lanes):
        yield Lanes(first, lanes)
    if isinstance(count, int):
        if count % lanes:
            yield from _masked_rest(integer(whole), integer(count), lanes)
        return
    with when(integer(whole) < count):
        yield from _masked_rest(integer(whole), count, lanes)


def _masked_rest(first: Value, count: Value, lanes: int) -> Iterator[Value]:
    index = Lanes(first, lanes)
    with current().masked(index < count):
        yield index


def shared(dtype: DTypeClass, count: int) -> Pointer[DType]:
    """Memory of the workgroup: all its lanes see it, after a barrier."""
    return lowering().shared(dtype, count)


def barrier() -> None:
    """Every lane of the workgroup arrives before any goes on; shared memory is then agreed on."""
    lowering().barrier()


def group_sum(x: Value) -> Value:
    """The sum over all lanes of the workgroup, in every lane as a scalar."""
    return lowering().group_reduce("add", x)


def group_max(x: Value) -> Value:
    return lowering().group_reduce("max", x)


def group_min(x: Value) -> Value:
    return lowering().group_reduce("min", x)


def wave_reduce(operation: str, x: Value) -> Value:
    """ "add", "max" or "min" over the lanes of one wave (on a CPU: one vector)."""
    return lowering().wave_reduce(operation, x)


def shuffle_xor(x: Value, mask: int) -> Value:
    """Each lane receives the value of the lane whose number differs in the bits of `mask`."""
    return lowering().shuffle_xor(x, mask)


def atomic_add(pointer: Pointer[DType], index: Value | int, value: Value) -> Value:
    """Add to memory without interference; returns what was there."""
    return lowering().atomic_add(pointer, index, value)


# Dots and matrices ----------------------------------------------------------------------------


def dot4(a: Value, b: Value, accumulator: Value) -> Value:
    """Add to each i32 lane the dot product of its four bytes of `a` and of `b`.

    a  4n lanes of u8 or i8      b  4n lanes of i8      accumulator  n lanes of i32
    Exact on every target, whatever the values.
    """
    if a.lanes != 4 * accumulator.lanes or b.lanes != a.lanes or accumulator.dtype is not i32:
        raise refuse(
            f"dot4 of {a.type}, {b.type} into {accumulator.type}",
            "it takes 4n bytes, 4n signed bytes and n i32",
        )
    return lowering().dot4(a, b, accumulator)


def pair_dot_bytes(a: Value, b: Value) -> Value:
    """Sums of neighbouring products, u8 times i8, as i16 that saturate (x86 `pmaddubsw`).

    a  2n lanes of u8    b  2n lanes of i8    returns  n lanes of i16
    Exact while 2 * max(a) * max|b| stays below 32768.
    """
    current().require("pair_dot", "pair_dot_bytes")
    if a.dtype is not u8:
        raise refuse(f"pair_dot_bytes of {a.type}", "the first operand is unsigned bytes")
    return lowering().pair_dot_bytes(a, b)


def pair_dot(a: Value, b: Value) -> Value:
    """Sums of neighbouring products, i16 times i16, exact as i32 (x86 `pmaddwd`)."""
    current().require("pair_dot", "pair_dot")
    return lowering().pair_dot(a, b)


def apply_sign(x: Value, sign: Value) -> Value:
    """`x` where `sign` is positive, `-x` where negative, 0 where zero; bytes (x86 `psignb`)."""
    current().require("pair_dot", "apply_sign")
    return lowering().apply_sign(x, sign)


def lookup16(table: list[int], index: Value) -> Value:
    """`table[index]` for bytes of 0..15; the table's 16 signed bytes are known while compiling."""
    if len(table) != 16:
        raise refuse("lookup16", "the table has 16 entries")
    return lowering().lookup16(table, index)


def mma(a: Value, b: Value, c: Value) -> Value:
    """Matrix-unit multiply-accumulate `a @ b + c` on the wave's fragments (see the lowering for
    their layout): f16 or bf16 into f32, 16x16x16 on AMD, 16x8x16 on NVIDIA.
    """
    return lowering().mma(a, b, c)


def prefetch(pointer: Pointer[DType], index: Value | int = 0, keep: bool = True) -> None:
    """Ask for the cache line of an element; `keep=False` says it is read only once."""
    lowering().prefetch(pointer.at(index), keep)


# Mathematics ----------------------------------------------------------------------------------


def exp(x: Value) -> Value:
    return lowering().exp(x)


def rsqrt(x: Value) -> Value:
    return lowering().rsqrt(x)


def sincos(x: Value) -> tuple[Value, Value]:
    """Sine and cosine of f32 radians, |x| up to about a million."""
    return lowering().sincos(x)


def sigmoid(x: Value) -> Value:
    return constant_like(x, 1.0) / (exp(-x) + 1.0)


def tanh(x: Value) -> Value:
    # exp overflows to infinity for large x and 2/inf is the right 0.
    return 1.0 - 2.0 / (exp(x * 2.0) + 1.0)


__all__ = [
    "absolute", "apply_sign", "atomic_add", "barrier", "boolean", "concatenate", "constant",
    "copysign", "masked", "dot4", "each", "exp", "f32", "floor", "fma", "group", "group_max", "group_min",
    "group_sum", "integer", "lane", "lookup16", "loop", "maximum", "minimum", "mma", "pair_dot",
    "pair_dot_bytes", "prefetch", "rint", "rsqrt", "select", "shared", "shuffle_xor", "sigmoid",
    "sincos", "sqrt", "tanh", "target", "variable", "vector", "wave_reduce", "when", "zeros",
]  # fmt: skip
