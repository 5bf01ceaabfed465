"""Storage types of tensors: what a block of each looks like, expanded to f32 and packed from it.

    StorageType.Q4_K.block, .block_bytes            256, 144
    dequantise(StorageType.Q4_K, raw)               u8[rows, bytes] to f32[rows, row length]
    quantise(StorageType.Q8_0, values)              the other way, for the plain types

These are the references that kernels are held to; `dequantise` agrees with ggml to the last bit.
"""

from __future__ import annotations

from exosuit.ops.quants.expand import dequantise
from exosuit.ops.quants.reduce import quantise
from exosuit.ops.quants.storage import StorageType

__all__ = ["StorageType", "dequantise", "quantise"]
