"""Packing for GPUs: rows as they lie in the file to records of 32 rows (see `ops.blocks`).

Runs on the device, from raw bytes of the file in its memory. Float types are cut into blocks of 16
bytes; where a row does not fill its last one, the rest is zeros.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Scalar,
    Value,
    constant,
    group,
    i32,
    i64,
    join,
    kernel,
    loop,
    minimum,
    select,
    u8,
    u16,
    u32,
    wave,
    wave_lane,
)
from exosuit.ops.blocks import LANE_ROWS, Fields, record_order, record_pieces
from exosuit.ops.pack import spread_bits

_WAVES = 8
_UNITS = {1: u8, 2: u16, 4: u32}


@kernel(group_size=32 * _WAVES)
def pack_gpu(
    raw: In[u8],
    out: Out[u8],
    rows: Scalar[i32],
    blocks: Scalar[i32],
    step: Scalar[i32],
    start: Scalar[i32],
    *,
    fields: Fields,
    block_bytes: int,
    tail: int = 0,
) -> None:
    """One workgroup packs 32 rows; arguments as `ops.pack.pack` has them.

    out   panels of blocks * 32 * block_bytes
    tail  bytes of a row's last block that the file has; 0 if all
    """
    lane = wave_lane()
    panel = (group() * step + start).to(i64) * blocks.to(i64) * (LANE_ROWS * block_bytes)
    pitch = blocks * block_bytes - ((block_bytes - tail) if tail else 0)
    row = raw.at(minimum(group() * LANE_ROWS + lane, rows - 1).to(i64) * pitch.to(i64))
    order = _file_bytes(fields)
    spread = {f.offset for f in fields if f.spread}
    for b in loop(blocks, start=wave(), step=_WAVES):
        source = row.at(b * block_bytes)
        target = out.at(panel + b.to(i64) * (LANE_ROWS * block_bytes))
        # The tail of the last block is not there to be read.
        present = select(b + 1 < blocks, constant(i32, block_bytes), tail) if tail else None
        for first, size in record_pieces(fields):
            unit = min(size, 4)
            words: list[Value] = []
            for at in range(first, first + size, unit):
                value = _unit(source, order[at : at + unit], present)
                words.append(spread_bits(value) if order[at] in spread else value)
            place = target.at(first * LANE_ROWS).at(lane * size).view(_UNITS[unit])
            place.store(join(*words), 0, size)


def _unit(source: Pointer[DType], places: list[int], present: Value | None) -> Value:
    """The bytes at `places` of the block as one number; 0 where they are not `present`."""
    if places == list(range(places[0], places[0] + len(places))) and present is None:
        # File data is aligned to nothing.
        return source.at(places[0]).view(_UNITS[len(places)]).load(align=1)
    dtype = _UNITS[len(places)]
    parts: list[Value] = []
    for n, place in enumerate(places):
        if present is None:
            byte = source.load(place)
        else:
            inside = constant(i32, place) < present
            byte = select(inside, source[select(inside, constant(i32, place), 0)], 0)
        parts.append(byte.to(dtype) << (8 * n))
    return reduce(lambda a, b: a | b, parts)


def _file_bytes(fields: Fields) -> list[int]:
    """For each byte of a record where it stands in the file's block."""
    return [
        place
        for number in record_order(fields)
        for place in range(fields[number].offset, fields[number].offset + fields[number].size)
    ]


def pack_gpu_reference(
    raw: NDArray[np.uint8], fields: Fields, block_bytes: int
) -> NDArray[np.uint8]:
    """u8[rows, blocks * block_bytes] to u8[ceil(rows / 32), blocks, 32 * block_bytes].

    A last block that is not whole is filled with zeros.
    """
    raw = np.pad(raw, ((0, 0), (0, -raw.shape[1] % block_bytes)))
    padded = np.pad(raw, ((0, -raw.shape[0] % LANE_ROWS), (0, 0)), mode="edge")
    blocks = padded.reshape(-1, LANE_ROWS, raw.shape[1] // block_bytes, block_bytes)
    records: list[NDArray[np.uint8]] = []
    for number in record_order(fields):
        field = fields[number]
        part = blocks[..., field.offset : field.offset + field.size]
        if field.spread:
            bits = np.unpackbits(part, axis=-1, bitorder="little")
            grouped = bits.reshape(*part.shape[:-1], 8, 4).swapaxes(-1, -2)
            part = np.packbits(grouped, axis=-1, bitorder="little")[..., 0]
        records.append(part)
    record = np.concatenate(records, axis=-1).transpose(0, 2, 1, 3)
    pieces = [
        record[..., start : start + size].reshape(*record.shape[:2], -1)
        for start, size in record_pieces(fields)
    ]
    return np.concatenate(pieces, axis=-1)
