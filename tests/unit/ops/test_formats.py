"""The table of formats against the storage types and against real weights."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.ops.weights import expand, filled_rows

from exosuit.ops.formats import FORMATS, ROWS
from exosuit.ops.quants import StorageType

EVERY = pytest.mark.parametrize("format", FORMATS.values(), ids=str)


@EVERY
def test_blocks_are_those_of_the_storage_type(format):
    type = StorageType[format.name]
    assert (format.block, format.block_bytes) == (type.block, type.block_bytes)
    assert format.packed_bytes == ROWS * type.block_bytes
    assert format.activation_block == format.block


@EVERY
def test_fields_cover_the_block_once(format):
    covered = sorted(k for f in format.fields for k in range(f.offset, f.offset + f.size))
    assert covered == list(range(format.block_bytes))
    assert all(f.size % f.unit == 0 for f in format.fields)
    assert all(not f.spread or f.size == f.unit == 4 for f in format.fields)
    assert ROWS * sum(f.size for f in format.fields) == format.packed_bytes


@EVERY
def test_chunks_and_sub_blocks_divide_the_block(format):
    assert format.block % format.chunk == 0
    assert format.block % format.sub == 0
    assert format.chunk % format.sub == 0
    assert format.sub % 4 == 0
    assert format.has_sub_scales == (format.block == 256)


# Where there are sub-scales, the extremes of `test_matmul` say whether the bound is safe.
@pytest.mark.parametrize("format", [f for f in FORMATS.values() if not f.has_sub_scales], ids=str)
def test_bound_is_tight(format):
    """Of all bytes, the largest quant is the bound: too small saturates, too large is slow."""
    values = [expand(format, filled_rows(format, 1, 32, byte)) for byte in range(256)]
    if format.has_minimum:
        values = [v - 1 for v in values]
    if format.name == "MXFP4":
        values = [2 * v for v in values]  # the kernel's table is doubled
    quants = np.concatenate(values) + format.offset
    assert np.abs(quants).max() == format.bound
    assert (quants == np.rint(quants)).all()
    if not format.signed:
        assert quants.min() >= 0


def test_names_are_what_programs_are_cached_by():
    """A repr must tell formats apart: it is part of a program's key."""
    assert len({repr(f) for f in FORMATS.values()}) == len(FORMATS) == 13
    assert all(name == repr(f) == f.name for name, f in FORMATS.items())
