"""Words that stand for a chip's wider instructions: dots of bytes, tables, matrices, copies.

Those that only some targets have are refused by the capability table on the others.
"""

from __future__ import annotations

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.lowering import lowering
from exosuit.kernel.matrix import MatrixTile
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass, bf16, f16, i8, i32, u8
from exosuit.kernel.value import Value


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


__all__ = [
    "apply_sign", "async_commit", "async_copy", "async_wait", "dot4", "lookup16", "mma", "mma_tile",
    "pair_dot", "pair_dot_bytes", "prefetch",
]  # fmt: skip
