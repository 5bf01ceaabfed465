"""Types without scales: floats and integers as they are."""

from __future__ import annotations

import numpy as np

from exosuit.ops.quants.layouts import Blocks, Values, expands
from exosuit.ops.quants.storage import StorageType


@expands(StorageType.F32, ("value", "<f4"))
@expands(StorageType.F16, ("value", "<f2"))
@expands(StorageType.F64, ("value", "<f8"))
@expands(StorageType.I8, ("value", "i1"))
@expands(StorageType.I16, ("value", "<i2"))
@expands(StorageType.I32, ("value", "<i4"))
@expands(StorageType.I64, ("value", "<i8"))
def number(blocks: Blocks) -> Values:
    return blocks["value"].astype(np.float32)


@expands(StorageType.BF16, ("value", "<u2"))
def bfloat16(blocks: Blocks) -> Values:
    """The upper half of an f32."""
    return (blocks["value"].astype(np.uint32) << 16).view(np.float32)
