"""Rows of any storage type to f32, in pieces that stay in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import ShapeMismatch
from exosuit.ops.quants import codebook_blocks, plain_blocks, scaled_blocks
from exosuit.ops.quants.layouts import LAYOUTS
from exosuit.ops.quants.storage import StorageType

PIECE = 1 << 17
"""Values that are expanded at a time; intermediate arrays are a few times this size."""

# each of these modules enters its types in LAYOUTS
_MODULES = (plain_blocks, scaled_blocks, codebook_blocks)


def dequantise(type: StorageType, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Expand stored rows.

    raw      u8[..., bytes of a row], any strides
    returns  f32[..., row length], new; the same bits as ggml's expansion on a CPU. Integers and
             f64 are rounded to f32.

    A damaged scale gives infinities and NaN, as it does in ggml. Raises ShapeMismatch if the rows
    are no whole number of blocks.
    """
    *rows, row_bytes = raw.shape
    if row_bytes % type.block_bytes:
        raise ShapeMismatch(
            f"a row of {row_bytes} bytes cannot be {type.label}",
            cause=f"{type.label} is stored in blocks of {type.block_bytes} bytes",
            next="pass whole rows, as GgufFile.raw gives them",
            type=type.label,
            row_bytes=row_bytes,
        )
    layout = LAYOUTS[type]
    length = row_bytes // type.block_bytes * type.block
    blocks = np.ascontiguousarray(raw).reshape(-1).view(layout.record)
    values = np.empty((len(blocks), type.block), np.float32)
    step = PIECE // type.block
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), step):
            piece = slice(start, start + step)
            values[piece] = layout.expand(blocks[piece]).reshape(-1, type.block)
    return values.reshape(*rows, length)
