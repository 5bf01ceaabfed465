"""Weights and activations for the tests of the matrix kernels: made up, but finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.ops.activations import quantise_reference, tile_order
from exosuit.ops.formats import FORMATS, ROWS, Format
from exosuit.ops.matmul import sums_per_block
from exosuit.ops.matmul_float import FLOAT_FORMATS, FloatFormat
from exosuit.ops.pack import pack_reference
from exosuit.ops.pack_float import pack_floats_reference
from exosuit.ops.quants import StorageType, dequantise

AnyFormat = Format | FloatFormat
ALL_FORMATS: dict[str, AnyFormat] = {**FORMATS, **FLOAT_FORMATS}


def block_of(format: AnyFormat) -> tuple[int, int]:
    """Elements and bytes of a block in the file."""
    if isinstance(format, FloatFormat):
        return 1, format.bytes
    return format.block, format.block_bytes


def random_rows(format: AnyFormat, rows: int, columns: int) -> NDArray[np.uint8]:
    """u8[rows, bytes]: every bit random, but scales between 0.001 and 0.03 of either sign."""
    rng = np.random.default_rng(len(format.name) * rows * columns)
    if isinstance(format, FloatFormat):
        wide = rng.normal(size=(rows, columns)).astype(np.float32)
        if format.name == "BF16":
            return (wide.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        return wide.astype(np.float16 if format.name == "F16" else np.float32).view(np.uint8)
    blocks = columns // format.block
    raw = rng.integers(0, 256, (rows, blocks, format.block_bytes), np.uint8)
    for field in format.fields:
        scale = raw[..., field.offset : field.offset + field.size]
        if (field.size, field.unit) == (2, 2):
            values = rng.uniform(0.001, 0.03, scale.shape[:2]) * rng.choice(
                (-1, 1), scale.shape[:2]
            )
            scale[...] = values.astype(np.float16)[..., None].view(np.uint8)
        elif format.name == "MXFP4" and field.size == 1:
            scale[...] = rng.integers(118, 124, scale.shape)
    return raw.reshape(rows, -1)


def filled_rows(format: Format, rows: int, columns: int, byte: int) -> NDArray[np.uint8]:
    """u8[rows, bytes]: quants and sub-scales of that byte throughout, scales of 1."""
    raw = np.full((rows, columns // format.block, format.block_bytes), byte, np.uint8)
    one = np.array([1], np.float16).view(np.uint8)
    for field in format.fields:
        if (field.size, field.unit) == (2, 2):
            raw[..., field.offset : field.offset + 2] = one
        elif format.name == "MXFP4" and field.size == 1:
            raw[..., field.offset] = 127
    return raw.reshape(rows, -1)


def expand(format: AnyFormat, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """f32[rows, columns]: what the rows say."""
    return dequantise(StorageType[format.name], raw)


def packed(format: AnyFormat, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(format, FloatFormat):
        return pack_floats_reference(raw, format)
    return pack_reference(raw, format.fields, block_of(format)[1]).reshape(-1)


def packed_pairs(
    format: AnyFormat, gates: NDArray[np.uint8], values: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Two matrices, a panel of the one and a panel of the other in turn."""
    panels = -(-gates.shape[0] // ROWS)
    if isinstance(format, FloatFormat):
        padded = [
            np.pad(raw, ((0, -len(raw) % ROWS), (0, 0)), mode="edge") for raw in (gates, values)
        ]
        rows = np.stack([raw.reshape(panels, ROWS, -1) for raw in padded], axis=1)
        return pack_floats_reference(rows.reshape(2 * panels * ROWS, -1), format)
    both = [packed(format, raw).reshape(panels, -1) for raw in (gates, values)]
    return np.stack(both, axis=1).reshape(-1)


def quantised(
    format: Format, x: NDArray[np.float32], tokens: int
) -> tuple[tuple[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float64]]:
    """What the kernel takes for tiles of `tokens`, and the values that this stands for."""
    quants, scales = quantise_reference(x, format.block)
    subs = sums_per_block(format)
    sums = quants.reshape(len(x), -1, format.sub).sum(-1).astype(np.int16)
    sums = sums * scales if format.scaled_sums else sums
    values = quants.reshape(*scales.shape, -1) * scales[..., None].astype(np.float64)
    laid_out = (
        tile_order(quants, tokens, 4),
        tile_order(scales, tokens, 1),
        tile_order(sums, tokens, 2 if subs > 1 else 1),
    )
    return laid_out, values.reshape(x.shape)
