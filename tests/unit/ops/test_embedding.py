"""Rows of the embedding matrix: every format to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.ops.weights import ALL_FORMATS, expand, packed, random_rows

from exosuit.ops.embedding import embed

IDS = np.array([20, 0, 7, 8, 13, 0], np.int32)


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("format", ALL_FORMATS.values(), ids=str)
def test_rows_are_exact(run, format, factor):
    """A factor that is a power of two changes no rounding, so nothing may differ from ggml."""
    raw = random_rows(format, 21, 512)
    out = np.zeros((len(IDS), 512), np.float32)
    static = {"columns": 512, "format": format, "factor": factor}
    run(embed, len(IDS), packed(format, raw), IDS, out, **static)
    np.testing.assert_array_equal(out, factor * expand(format, raw)[IDS])


def test_any_factor(run, check):
    format = ALL_FORMATS["Q6_K"]
    raw = random_rows(format, 21, 512)
    out = np.zeros((len(IDS), 512), np.float32)
    factor = 512**0.5
    run(embed, len(IDS), packed(format, raw), IDS, out, columns=512, format=format, factor=factor)
    # Three roundings of f32, of 2**-24 each.
    check(out, factor * expand(format, raw)[IDS].astype(np.float64), 2e-7)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_of_any_width(run, name):
    format = ALL_FORMATS[name]
    raw = random_rows(format, 9, 61)
    ids = np.array([8, 1], np.int32)
    out = np.zeros((2, 61), np.float32)
    run(embed, 2, packed(format, raw), ids, out, columns=61, format=format, factor=1.0)
    np.testing.assert_array_equal(out, expand(format, raw)[ids])


def test_floats_whose_panels_take_turns(run):
    format = replace(ALL_FORMATS["F16"], turns=2, run=16)
    raw = random_rows(ALL_FORMATS["F16"], 32, 48)
    ids = np.array([31, 0, 19], np.int32)
    out = np.zeros((3, 48), np.float32)
    run(embed, 3, packed(format, raw), ids, out, columns=48, format=format, factor=1.0)
    np.testing.assert_array_equal(out, expand(format, raw)[ids])
