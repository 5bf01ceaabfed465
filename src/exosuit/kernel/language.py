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

One shape for two kinds of machine: on a GPU a workgroup is `group_size` lanes and a value is one
lane's scalar; on a CPU a workgroup is one call and a value under `each` is a SIMD vector. Kernels
written with `each` and the group's reductions run on both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from exosuit.kernel.builder import current, kernel_place, refuse
from exosuit.kernel.lowering import lowering
from exosuit.kernel.matrix import MatrixTile
from exosuit.kernel.target import Target
from exosuit.kernel.types import DType, DTypeClass, Type, bf16, f16, f32, i8, i32, u8
from exosuit.kernel.value import (
    Lanes,
    Pointer,
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


# The workgroup --------------------------------------------------------------------------------


def group() -> Value:
    """Which workgroup this is, i32, from 0."""
    return lowering().group()


def lane() -> Value:
    """Which lane of the workgroup this is, i32; on a CPU a vector of all of them."""
    return lowering().lane()


def wave() -> Value:
    """Which wave of the workgroup this lane is in, i32, the same in all its lanes; 0 on a CPU."""
    return lowering().wave()


def wave_lane() -> Value:
    """Which lane of its wave this is, i32; on a CPU a vector of all of them."""
    return lowering().wave_lane()


@contextmanager
def leader() -> Generator[None]:
    """The body runs once per workgroup: in its first lane on a GPU, as it stands on a CPU."""
    with lowering().leader():
        yield


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


def deal(count: Value | int) -> Iterator[Value]:
    """Indices 0..count-1, dealt out to the lanes of the workgroup, a whole body for each.

    On a CPU they come one after the other as scalars: for bodies that are vectors themselves.
    """
    builder = current()
    if builder.target.is_gpu:
        return loop(count, start=lane(), step=builder.group_size)
    return loop(count)


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
    """One of "add", "max", "min" over the lanes of one wave (on a CPU: one vector)."""
    return lowering().wave_reduce(operation, x)


def shuffle_xor(x: Value, mask: int) -> Value:
    """Each lane receives the value of the lane whose number differs in the bits of `mask`."""
    return lowering().shuffle_xor(x, mask)


def atomic_add(pointer: Pointer[DType], index: Value | int, value: Value | float) -> Value:
    """Add to memory without interference; returns what was there.

    With a vector of indices (a CPU's lanes) each lane that is on does so, one after the other, and
    lanes that are off return 0. Order between workgroups is free, so float sums may differ in the
    last bits from run to run.
    """
    return _atomic("add", pointer, index, value)


def atomic_max(pointer: Pointer[DType], index: Value | int, value: Value | float) -> Value:
    return _atomic("max", pointer, index, value)


def atomic_min(pointer: Pointer[DType], index: Value | int, value: Value | float) -> Value:
    return _atomic("min", pointer, index, value)


def atomic_exchange(pointer: Pointer[DType], index: Value | int, value: Value | float) -> Value:
    """Put `value` there; returns what it replaced."""
    return _atomic("exchange", pointer, index, value)


def atomic_compare_exchange(
    pointer: Pointer[DType], index: Value | int, expected: Value, new: Value
) -> Value:
    """Put `new` there if `expected` is; returns what was there. Integers of 32 or 64 bits."""
    _check_atomic("atomic_compare_exchange", pointer, new)
    if new.type.is_float or expected.type != new.type or new.lanes != 1:
        raise refuse(
            f"atomic_compare_exchange of {expected.type} and {new.type}",
            "it compares one integer; view a float's bits",
        )
    return lowering().compare_exchange(pointer, index, expected, new)


def _atomic(
    operation: str, pointer: Pointer[DType], index: Value | int, value: Value | float
) -> Value:
    if not isinstance(value, Value):
        value = constant(pointer.dtype, value, 1 if isinstance(index, int) else index.lanes)
    _check_atomic(f"atomic_{operation}", pointer, value)
    return lowering().atomic(operation, pointer, index, value)


def _check_atomic(word: str, pointer: Pointer[DType], value: Value) -> None:
    if not pointer.writable or value.dtype is not pointer.dtype:
        raise refuse(
            f"{word} of {value.type} on {'writable' if pointer.writable else 'read-only'} memory "
            f"of {pointer.dtype.__name__}",
            "the parameter is InOut, and of the value's type",
        )
    if value.dtype.kind == "bool" or value.dtype.bits not in (32, 64):
        raise refuse(f"{word} of {value.type}", "atomics are for 32 and 64 bits")


# Dots and matrices ----------------------------------------------------------------------------


def dot4(a: Value, b: Value, accumulator: Value) -> Value:
    """Add to each i32 lane the dot product of its four bytes of `a` and of `b`.

    a, b  4n lanes of u8 or i8, in any combination      accumulator  n lanes of i32
    Exact on every target, whatever the values. Fastest everywhere: u8 times i8.
    """
    bytes_only = a.dtype in (u8, i8) and b.dtype in (u8, i8)
    if (
        not bytes_only
        or not a.lanes == b.lanes == 4 * accumulator.lanes
        or (accumulator.dtype is not i32)
    ):
        raise refuse(
            f"dot4 of {a.type}, {b.type} into {accumulator.type}",
            "it takes 4n bytes twice and n i32",
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
    if len(table) != 16 or index.dtype not in (u8, i8):
        raise refuse(
            f"lookup16 of {index.type} in {len(table)} entries", "16 entries, and bytes to look up"
        )
    return lowering().lookup16(table, index)


def mma_tile(dtype: DTypeClass) -> MatrixTile:
    """The matrix unit's operation on operands of f16, bf16 (into f32), i8 or u8 (into i32)."""
    current().require("mma", "a matrix-unit operation")
    if dtype not in (f16, bf16, i8, u8):
        raise refuse(f"mma_tile of {dtype.__name__}", "it multiplies f16, bf16, i8 or u8")
    return lowering().mma_tile(dtype)


def mma(a: Value, b: Value, c: Value) -> Value:
    """`a @ b + c` by the matrix unit, on fragments as `mma_tile` loads them.

    All lanes of the wave take part.
    """
    tile = mma_tile(a.dtype)
    wanted = (tile.m * tile.k // 32 * tile.copies, tile.n * tile.k // 32 * tile.copies)
    same = a.dtype is b.dtype or {a.dtype, b.dtype} == {i8, u8}
    if (a.lanes, b.lanes) != wanted or not same or c.type != tile.zeros().type:
        raise refuse(
            f"mma of {a.type}, {b.type} and {c.type}", "load the operands with mma_tile(dtype)"
        )
    return lowering().mma(a, b, c)


def async_copy(
    to: Pointer[DType],
    to_index: Value | int,
    source: Pointer[DType],
    index: Value | int,
    count: int,
) -> None:
    """Start to copy `count` elements (4, 8 or 16 bytes) into shared memory, past the registers."""
    current().require("async_copy", "an asynchronous copy")
    size = count * to.dtype.bits // 8
    if to.space != 3 or source.space != 1 or to.dtype is not source.dtype or size not in (4, 8, 16):
        raise refuse(
            f"async_copy of {count} {source.dtype.__name__}",
            "it copies 4, 8 or 16 aligned bytes from a parameter's memory to shared memory",
        )
    lowering().async_copy(to.at(to_index), source.at(index), size)


def async_commit() -> None:
    """End a batch: what was started since the last one is waited for together."""
    current().require("async_copy", "an asynchronous copy")
    lowering().async_commit()


def async_wait(pending: int = 0) -> None:
    """Wait until at most `pending` of this lane's batches are on their way; a barrier() follows."""
    current().require("async_copy", "an asynchronous copy")
    lowering().async_wait(pending)


def prefetch(pointer: Pointer[DType], index: Value | int = 0, keep: bool = True) -> None:
    """Ask for the cache line of an element; `keep=False` says it is read only once."""
    lowering().prefetch(pointer.at(index), keep)


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
    return constant_like(x, 1.0) / (exp(-x) + 1.0)


def tanh(x: Value) -> Value:
    # exp overflows to infinity for large x and 2/inf is the right 0.
    return 1.0 - 2.0 / (exp(x * 2.0) + 1.0)


__all__ = [
    "absolute", "apply_sign", "async_commit", "async_copy", "async_wait", "atomic_add",
    "atomic_compare_exchange", "atomic_exchange", "atomic_max", "atomic_min", "barrier",
    "concatenate", "constant", "copysign", "deal", "dot4", "each", "exp", "floor", "fma", "group",
    "group_max", "group_min", "group_sum", "integer", "join", "lane", "leader", "lookup16", "loop",
    "masked", "maximum", "minimum", "mma", "mma_tile", "pair_dot", "pair_dot_bytes", "prefetch",
    "reciprocal", "rint", "rsqrt", "select", "shared", "shuffle_xor", "sigmoid", "sincos", "sqrt",
    "tanh", "target", "variable", "vector", "wave", "wave_lane", "wave_reduce", "when", "zeros",
]  # fmt: skip
