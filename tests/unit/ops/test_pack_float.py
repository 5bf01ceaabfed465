"""Packing floats on the device, against its reference; and that the reference loses nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.ops.weights import packed, packed_pairs

from exosuit.ops.blocks import ROWS
from exosuit.ops.matmul_float import FLOAT_FORMATS
from exosuit.ops.pack_float import pack_floats, pack_floats_reference

FORMAT = pytest.mark.parametrize("format", FLOAT_FORMATS.values(), ids=str)


def random_bytes(format, rows, columns):
    return np.random.default_rng(rows).integers(0, 256, (rows, columns * format.bytes), np.uint8)


def pack_on_device(run, format, raws, columns):
    """Several matrices, their panels in turn."""
    panels = -(-len(raws[0]) // ROWS)
    out = np.zeros(len(raws) * panels * ROWS * columns * format.bytes, np.uint8)
    for start, raw in enumerate(raws):
        run(
            pack_floats, panels, raw, out, len(raw), len(raws), start, columns=columns,
            format=format,
        )  # fmt: skip
    return out


@FORMAT
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (8, 61), (21, 64)])
def test_any_bytes(run, format, rows, columns):
    raw = random_bytes(format, rows, columns)
    np.testing.assert_array_equal(pack_on_device(run, format, [raw], columns), packed(format, raw))


@FORMAT
def test_two_matrices_whose_panels_take_turns(run, format):
    format = replace(format, turns=2, run=16)
    gates, values = random_bytes(format, 21, 48), random_bytes(format, 21, 48)[::-1]
    expected = packed_pairs(format, gates, values)
    np.testing.assert_array_equal(pack_on_device(run, format, [gates, values], 48), expected)


def test_where_an_element_goes():
    """Row 19 is lane 3 of panel 2, the first of its turn of two; column 21 is 5 of run 1."""
    format = replace(FLOAT_FORMATS["F32"], turns=2, run=16)
    raw = np.arange(32 * 48, dtype=np.float32).reshape(32, 48)
    out = pack_floats_reference(raw.view(np.uint8), format).view(np.float32)
    turns = out.reshape(2, 3, 2, 16, ROWS)
    assert turns[1, 1, 0, 5, 3] == raw[19, 21]
    assert sorted(out) == sorted(raw.reshape(-1))
