"""Gathered rows and added norms, at widths that fill vectors and at widths that do not."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.rows import add_normed, gather_rows

RNG = np.random.default_rng(3)
WIDTHS = pytest.mark.parametrize("width", [1, 8, 61, 576])


@WIDTHS
def test_gathered(run, width):
    x = RNG.normal(size=(5, width)).astype(np.float32)
    rows = np.array([4, 0, 0, 3, 4, 1, 2], np.int32)
    out = np.zeros((len(rows), width), np.float32)
    run(gather_rows, len(rows), x, rows, out, width=width)
    np.testing.assert_array_equal(out, x[rows])


@WIDTHS
def test_add_normed(run, check, width):
    x, y = (RNG.normal(size=(3, width)).astype(np.float32) * 10 for _ in range(2))
    weight = RNG.normal(size=width).astype(np.float32)
    wide = y.astype(np.float64)
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    expected = x + normed
    run(add_normed, 3, y, weight, x, width=width, epsilon=1e-5)
    check(x, expected, 1e-6)


def test_a_row_of_zeros_adds_nothing(run):
    x = RNG.normal(size=(1, 61)).astype(np.float32)
    before = x.copy()
    zeros, ones = np.zeros((1, 61), np.float32), np.ones(61, np.float32)
    run(add_normed, 1, zeros, ones, x, width=61, epsilon=1e-6)
    np.testing.assert_array_equal(x, before)
