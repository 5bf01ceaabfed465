"""The idiom in which blocks are described: a NumPy record of the fields, and how they expand.

    @expands(StorageType.Q8_0, ("scale", "<f2"), ("quants", "32i1"))
    def _q8_0(blocks): return scales(blocks) * blocks["quants"]

An expander takes the records of n blocks and gives f32[n, block], or any shape of that many values
in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.ops.quants.storage import StorageType

Blocks = NDArray[np.void]
Floats = NDArray[np.float32]
Values = NDArray[np.floating[Any]]
"""What an expander gives: f32, though NumPy's type stubs lose track of products of f32."""
Expander = Callable[[Blocks], Values]


@dataclass(frozen=True)
class Layout:
    """The record of one block, and the function that expands many."""

    record: np.dtype[np.void]
    expand: Expander


LAYOUTS: dict[StorageType, Layout] = {}


def expands(type: StorageType, *fields: tuple[Any, ...]) -> Callable[[Expander], Expander]:
    """Enter the decorated function as the expander of blocks with these fields."""
    record = np.dtype(list(fields))
    assert record.itemsize == type.block_bytes, (type.name, record.itemsize)

    def enter(expand: Expander) -> Expander:
        LAYOUTS[type] = Layout(record, expand)
        return expand

    return enter


def floats(field: NDArray[Any]) -> Floats:
    """One number per block as f32[n, 1], to multiply rows of values with."""
    return field.astype(np.float32)[:, None]


def bits(field: NDArray[Any], width: int, count: int = 0) -> NDArray[Any]:
    """Integers [..., k] taken apart into fields of `width` bits: [..., count, k], lowest first.

    Values that share a byte thus end up k apart, as most blocks store them. `count` is how many
    fields there are, by default as many as fit.
    """
    count = count or 8 * field.itemsize // width
    shifts = np.arange(count, dtype=field.dtype)[:, None] * field.dtype.type(width)
    return (field[..., None, :] >> shifts) & field.dtype.type((1 << width) - 1)


def neighbours(field: NDArray[Any], width: int, count: int = 0) -> NDArray[Any]:
    """Like `bits`, but values that share an integer stay side by side: [..., k * count]."""
    parts = bits(field[..., None], width, count)
    return parts.reshape(*field.shape[:-1], -1)
