"""Words about the lanes of a workgroup: who they are, what they share, how they agree.

On a GPU a workgroup is `group_size` lanes in waves of 32; on a CPU it is one call, whose only wave
is one SIMD vector.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.language import loop, when
from exosuit.kernel.lowering import lowering
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass
from exosuit.kernel.value import Lanes, Value, constant, integer


def group() -> Value:
    """Which workgroup this is, i32, from 0."""
    return lowering().group()


def lane() -> Value:
    """Which lane of the workgroup this is, i32; on a CPU a vector of all of them."""
    return lowering().lane()


def group_lanes() -> int:
    """Lanes of the workgroup, known while compiling; on a CPU those of its one vector."""
    builder = current()
    return builder.group_size if builder.target.is_gpu else builder.target.lanes


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


def barrier(memory: bool = False) -> None:
    """Every lane of the workgroup arrives before any goes on; shared memory is then agreed on.

    memory  and so is what they wrote to the device's memory
    """
    lowering().barrier(memory)


def wave_barrier() -> None:
    """Every lane of the wave arrives, and what they wrote to shared memory is agreed on."""
    lowering().wave_barrier()


def keep_order() -> None:
    """A hint: what is written after this is not begun before it, so that registers suffice."""
    lowering().keep_order()


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


__all__ = [
    "atomic_add", "atomic_compare_exchange", "atomic_exchange", "atomic_max", "atomic_min",
    "barrier", "deal", "each", "group", "group_lanes", "group_max", "group_min", "group_sum",
    "keep_order", "lane", "leader", "shared", "shuffle_xor", "wave", "wave_barrier", "wave_lane",
    "wave_reduce",
]  # fmt: skip
