"""Random weights drawn as blocks of a storage type, not as numbers that are then packed.

    blocks = random_blocks(np.random.default_rng(1), Storage.Q4_K, 2048, 4096, 0.02)

As quick as random bytes are, and no peer is needed to pack them, so that a model of any size can be
made where a card is. Every bit of the quants is random; scales vary between a block's parts, so
that a wrong one shows; the mean is zero and the deviation what was asked for, within a few percent.
Layouts: ggml-common.h of llama.cpp; the tests unpack them with the PyPI package gguf.
"""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Storage

DRAWN = (Storage.F32, Storage.F16, Storage.Q8_0, Storage.Q4_K, Storage.Q6_K)
"""The storage types that can be drawn."""

_SCALES = 24, 41
"""Six-bit scales of a block's parts are drawn from here; 32 on average."""
_MEAN_SCALE = 32


def random_blocks(
    generator: np.random.Generator, kind: Storage, rows: int, columns: int, deviation: float
) -> bytes:
    """`rows` rows as the file has them."""
    block, size = GGML_QUANT_SIZES[kind]
    count = rows * columns // block
    if kind in (Storage.F32, Storage.F16):
        values = generator.random(rows * columns, np.float32)
        values -= 0.5
        values *= deviation * np.sqrt(12)
        return values.astype(np.float32 if kind is Storage.F32 else np.float16).tobytes()
    raw = np.frombuffer(generator.bytes(count * size), np.uint8).reshape(count, size).copy()
    if kind is Storage.Q8_0:
        factors = 0.75 + 0.5 * generator.random(count, np.float32)
        raw[:, :2] = _halves(factors * (deviation / 74.8))  # uniform in -128..127, spread by scales
    elif kind is Storage.Q4_K:
        scales = generator.integers(*_SCALES, (count, 8), np.uint8)
        minima = (scales.astype(np.uint16) * 15 // 16).astype(np.uint8)
        unit = np.full(count, deviation / (_MEAN_SCALE * 4.66), np.float32)
        raw[:, 0:2], raw[:, 2:4] = _halves(unit), _halves(8.1 * unit)
        raw[:, 4:16] = _six_bits(scales, minima)
    elif kind is Storage.Q6_K:
        unit = np.full(count, deviation / (_MEAN_SCALE * 18.75), np.float32)
        raw[:, 192:208] = generator.integers(*_SCALES, (count, 16), np.uint8)
        raw[:, 208:210] = _halves(unit)
    else:
        raise ValueError(f"{kind.name} is not drawn")
    return raw.tobytes()


def _halves(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _six_bits(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """Eight scales and eight minima of six bits each in twelve bytes, as Q4_K has them."""
    low, high = slice(0, 4), slice(4, 8)
    return np.concatenate(
        [
            scales[:, low] | (scales[:, high] >> 4 << 6),
            minima[:, low] | (minima[:, high] >> 4 << 6),
            (scales[:, high] & 15) | (minima[:, high] & 15) << 4,
        ],
        axis=1,
    )
