"""Values to stored rows, for the types that need no search: tests and small tensors want it.

Each block takes the scale that just reaches its largest value, and rounds. Except for IQ4_NL the
bytes are those of PyPI gguf, which follows the reference quantisers of ggml-quants.c; a file made
with an importance matrix has better scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import ShapeMismatch
from exosuit.ops.quants.codebook_blocks import IQ4_VALUES
from exosuit.ops.quants.layouts import LAYOUTS, Blocks, Floats
from exosuit.ops.quants.scaled_blocks import FLOAT4, e8m0_half
from exosuit.ops.quants.storage import StorageType

Reducer = Callable[[Floats, Blocks], None]

PIECE = 1 << 17
"""Values that are packed at a time."""


def quantise(type: StorageType, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pack rows.

    values   f32[..., row length], finite
    returns  u8[..., bytes of a row]

    Raises ShapeMismatch for rows that are no whole number of blocks and for types that are not
    made here (`QUANTISERS` names those that are).
    """
    reduce = QUANTISERS.get(type)
    if reduce is None:
        raise ShapeMismatch(
            f"exosuit does not write {type.label}",
            cause="only types that need no search are written: "
            + ", ".join(kind.label for kind in QUANTISERS),
            next="choose one of these types, or quantise with llama-quantize of llama.cpp",
            type=type.label,
        )
    *rows, length = values.shape
    if length % type.block:
        raise ShapeMismatch(
            f"a row of {length} values cannot be {type.label}",
            cause=f"{type.label} is stored in blocks of {type.block} values",
            next="choose a type with smaller blocks, such as F16",
            type=type.label,
            length=length,
        )
    flat = np.ascontiguousarray(values, np.float32).reshape(-1, type.block)
    blocks = np.zeros(len(flat), LAYOUTS[type].record)
    step = PIECE // type.block
    with np.errstate(all="ignore"):
        for start in range(0, len(flat), step):
            reduce(flat[start : start + step], blocks[start : start + step])
    return blocks.view(np.uint8).reshape(*rows, type.row_bytes(length))


def _number(x: Floats, blocks: Blocks) -> None:
    blocks["value"] = x[:, 0]


def _bfloat16(x: Floats, blocks: Blocks) -> None:
    """Rounded to nearest even; a NaN stays one."""
    pattern = x[:, 0].view(np.uint32)
    rounded = (pattern + (0x7FFF + (pattern >> 16 & 1))) >> 16
    blocks["value"] = np.where(np.isnan(x[:, 0]), pattern >> 16 | 64, rounded)


def _q8_0(x: Floats, blocks: Blocks) -> None:
    d = np.abs(x).max(axis=1) / np.float32(127)
    blocks["d"] = d
    scaled = x * _inverse(d)
    blocks["qs"] = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)


def _q4_0(x: Floats, blocks: Blocks) -> None:
    blocks["qs"] = _two_halves(_around_zero(x, blocks, 8))


def _q4_1(x: Floats, blocks: Blocks) -> None:
    blocks["qs"] = _two_halves(_above_minimum(x, blocks, 15))


def _q5_0(x: Floats, blocks: Blocks) -> None:
    _store_five_bits(_around_zero(x, blocks, 16), blocks)


def _q5_1(x: Floats, blocks: Blocks) -> None:
    _store_five_bits(_above_minimum(x, blocks, 31), blocks)


def _mxfp4(x: Floats, blocks: Blocks) -> None:
    """The power of two that brings the largest value to between 4 and 8, where 6 is the end."""
    _, exponent = np.frexp(np.abs(x).max(axis=1))
    code = np.where(np.any(x, axis=1), np.clip(exponent - 3 + 127, 0, 255), 0)
    blocks["e"] = code
    errors = np.abs(e8m0_half()[code][:, None, None] * FLOAT4 - x[..., None])
    blocks["qs"] = _two_halves(errors.argmin(axis=2).astype(np.uint8))


def _iq4_nl(x: Floats, blocks: Blocks) -> None:
    """The largest value becomes the first of the table; ggml searches for better scales."""
    d = _largest(x) / IQ4_VALUES[0]
    blocks["d"] = d
    middles = (IQ4_VALUES[1:] + IQ4_VALUES[:-1]) / 2
    blocks["qs"] = _two_halves(np.searchsorted(middles, x * _inverse(d)).astype(np.uint8))


def _largest(x: Floats) -> Floats:
    """f32[n]: the value farthest from zero, with its sign; the first of equals."""
    place = np.abs(x).argmax(axis=1, keepdims=True)
    return np.take_along_axis(x, place, axis=1)[:, 0]


def _inverse(d: Floats) -> Floats:
    return np.where(d == 0, np.float32(0), np.float32(1) / d)[:, None]


def _around_zero(x: Floats, blocks: Blocks, half: int) -> NDArray[np.uint8]:
    """Quants of 0 to 2 * half - 1 that stand for -half and up; the largest value becomes -half."""
    d = _largest(x) / np.float32(-half)
    blocks["d"] = d
    return _truncate(x * _inverse(d) + np.float32(half + 0.5), 2 * half - 1)


def _above_minimum(x: Floats, blocks: Blocks, top: int) -> NDArray[np.uint8]:
    """Quants of 0 to `top`, from the smallest value to the largest."""
    least = x.min(axis=1)
    d = (x.max(axis=1) - least) / np.float32(top)
    blocks["d"], blocks["m"] = d, least
    return _truncate((x - least[:, None]) * _inverse(d) + np.float32(0.5), top)


def _truncate(x: Floats, top: int) -> NDArray[np.uint8]:
    return np.clip(x, 0, top).astype(np.uint8)


def _two_halves(quants: NDArray[Any]) -> NDArray[Any]:
    """The first half of a block in the low nibbles, the second in the high ones."""
    half = quants.shape[1] // 2
    return quants[:, :half] | quants[:, half:] << 4


def _store_five_bits(quants: NDArray[np.uint8], blocks: Blocks) -> None:
    blocks["qs"] = _two_halves(quants & 15)
    blocks["qh"] = np.packbits(quants >> 4, axis=1, bitorder="little")


QUANTISERS: Mapping[StorageType, Reducer] = {
    StorageType.F32: _number,
    StorageType.F16: _number,
    StorageType.BF16: _bfloat16,
    StorageType.Q8_0: _q8_0,
    StorageType.Q4_0: _q4_0,
    StorageType.Q4_1: _q4_1,
    StorageType.Q5_0: _q5_0,
    StorageType.Q5_1: _q5_1,
    StorageType.MXFP4: _mxfp4,
    StorageType.IQ4_NL: _iq4_nl,
}
