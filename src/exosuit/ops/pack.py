"""Packing: rows as they lie in the file to eight rows side by side (see `ops.formats`).

Runs on the device, once per tensor at load. The NumPy reference stands below the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Scalar,
    Value,
    group,
    i32,
    i64,
    kernel,
    loop,
    minimum,
    u8,
    u16,
    u32,
)
from exosuit.ops.blocks import ROWS, Field, Fields

_UNITS = {1: u8, 2: u16, 4: u32}


@kernel
def pack(
    raw: In[u8],
    out: Out[u8],
    rows: Scalar[i32],
    blocks: Scalar[i32],
    step: Scalar[i32],
    start: Scalar[i32],
    *,
    fields: Fields,
    block_bytes: int,
) -> None:
    """One workgroup packs eight rows.

    raw    u8[rows, blocks * block_bytes]
    out    panels of blocks * 8 * block_bytes; workgroup g writes panel g * step + start, so that
           two matrices can be interleaved
    Rows past the end repeat the last one; whoever multiplies does not store them.
    """
    panel = (group() * step + start).to(i64) * blocks.to(i64) * (ROWS * block_bytes)
    first = group() * ROWS
    sources = [
        raw.at(minimum(first + r, rows - 1).to(i64) * blocks.to(i64) * block_bytes)
        for r in range(ROWS)
    ]
    for b in loop(blocks):
        target = out.at(panel + b.to(i64) * (ROWS * block_bytes))
        places = [source.at(b * block_bytes) for source in sources]
        place = 0
        for field in fields:
            _pack_field(field, places, target.at(place))
            place += ROWS * field.size


def _pack_field(field: Field, places: Sequence[Pointer[DType]], target: Pointer[DType]) -> None:
    unit = _UNITS[field.unit]
    for i in loop(field.size // field.unit):
        for r, place in enumerate(places):
            # File data is aligned to nothing.
            value = place.at(i * field.unit + field.offset).view(unit).load(align=1)
            target.view(unit).store(spread_bits(value) if field.spread else value, i * ROWS + r)


def spread_bits(bits: Value) -> Value:
    """32 bits, one per element: byte e of the result gets bits e, 4 + e, 8 + e, ... in order."""
    result = (bits & 0) | 0
    for group_of_four in range(8):
        four = (bits >> (4 * group_of_four)) & 15
        # The product puts bit i of the four at bit 7 i + i.
        result = result | (((four * 0x00204081) & 0x01010101) << group_of_four)
    return result


def pack_reference(raw: NDArray[np.uint8], fields: Fields, block_bytes: int) -> NDArray[np.uint8]:
    """u8[rows, blocks * block_bytes] to u8[ceil(rows / 8), blocks, 8 * block_bytes]."""
    padded = np.pad(raw, ((0, -raw.shape[0] % ROWS), (0, 0)), mode="edge")
    blocks = padded.reshape(-1, ROWS, raw.shape[1] // block_bytes, block_bytes)
    parts: list[NDArray[np.uint8]] = []
    for field in fields:
        part = blocks[..., field.offset : field.offset + field.size]
        if field.spread:
            bits = np.unpackbits(part, axis=-1, bitorder="little")
            grouped = bits.reshape(*part.shape[:-1], 8, 4).swapaxes(-1, -2)
            part = np.packbits(grouped, axis=-1, bitorder="little")[..., 0]
        units = part.reshape(*part.shape[:-1], field.size // field.unit, field.unit)
        units = units.transpose(0, 2, 3, 1, 4)
        parts.append(units.reshape(*units.shape[:2], -1))
    return np.concatenate(parts, axis=-1)
