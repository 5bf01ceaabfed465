"""Packing on the device, against its reference, and what the reference must be: a permutation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.ops.weights import ALL_FORMATS, block_of, packed, packed_pairs, random_rows

from exosuit.models.gguf import GgufFile
from exosuit.ops.formats import ROWS
from exosuit.ops.pack import pack, pack_reference

EVERY = pytest.mark.parametrize("format", ALL_FORMATS.values(), ids=str)


def packed_on_device(run, format, raw):
    _, block_bytes = block_of(format)
    blocks = raw.shape[1] // block_bytes
    groups = -(-raw.shape[0] // ROWS)
    out = np.zeros(groups * ROWS * raw.shape[1], np.uint8)
    static = {"fields": format.fields, "block_bytes": block_bytes}
    run(pack, groups, raw, out, raw.shape[0], blocks, 1, 0, **static)
    return out


@EVERY
@pytest.mark.parametrize("rows", [1, 8, 21])
def test_any_bytes(run, format, rows):
    raw = np.random.default_rng(rows).integers(0, 256, (rows, 5 * block_of(format)[1]), np.uint8)
    np.testing.assert_array_equal(packed_on_device(run, format, raw), packed(format, raw))


@EVERY
def test_real_weights(run, shared: Path, format):
    with GgufFile.open(shared / "models/quant-vectors.gguf") as file:
        raw = file.raw("src" if format.name == "F32" else format.name.lower())
        np.testing.assert_array_equal(packed_on_device(run, format, raw), packed(format, raw))


@EVERY
def test_the_reference_moves_every_bit_and_adds_none(format):
    _, block_bytes = block_of(format)
    # Of 8 rows at a time one has one bit set: each must end up in a place of its own.
    bits = np.arange(ROWS * block_bytes * 8)
    rows = bits // (block_bytes * 8) + ROWS * np.arange(len(bits))
    raw = np.zeros((ROWS * len(bits), block_bytes), np.uint8)
    raw[rows, bits // 8 % block_bytes] = 1 << (bits % 8)
    panels = pack_reference(raw, format.fields, block_bytes).reshape(len(bits), -1)
    assert panels.shape == (len(bits), ROWS * block_bytes)
    places = np.unpackbits(panels, axis=1)
    assert (places.sum(axis=1) == 1).all()
    assert len(set(places.argmax(axis=1))) == len(bits)


def test_rows_past_the_end_repeat_the_last_one():
    format = ALL_FORMATS["F32"]
    raw = random_rows(format, 3, 4)
    panel = packed(format, raw).view(np.float32).reshape(4, ROWS)
    np.testing.assert_array_equal(panel[:, 2:], panel[:, 2:3].repeat(ROWS - 2, axis=1))


def test_two_matrices_interleaved(run):
    format = ALL_FORMATS["Q4_K"]
    gates, values = random_rows(format, 21, 512), random_rows(format, 21, 512) ^ 0x55
    expected = packed_pairs(format, gates, values)
    out = np.zeros_like(expected)
    for start, raw in enumerate((gates, values)):
        static = {"fields": format.fields, "block_bytes": format.block_bytes}
        run(pack, 3, raw, out, 21, 2, 2, start, **static)
    np.testing.assert_array_equal(out, expected)
