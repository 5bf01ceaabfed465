"""Norms against float64, at widths that fill vectors and at widths that do not."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.norm import (
    add_rms_norm,
    layer_norm,
    layer_norm_reference,
    rms_norm,
    rms_norm_reference,
)

RNG = np.random.default_rng(1)
WIDTHS = [1, 5, 8, 61, 576, 2048]


def _random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(run, check, width):
    x, weight = _random(3, width) * 10, _random(width)
    out = np.zeros_like(x)
    run(rms_norm, 3, x, weight, out, width=width, eps=1e-5)
    check(out, rms_norm_reference(x, weight, 1e-5), 1e-6)


def test_epsilon_counts_for_a_row_of_zeros(run):
    out = np.ones((1, 16), np.float32)
    run(rms_norm, 1, np.zeros_like(out), np.ones(16, np.float32), out, width=16, eps=1e-6)
    assert not out.any()


@pytest.mark.parametrize("width", WIDTHS)
def test_add_then_norm(run, check, width):
    x, delta, weight = _random(3, width), _random(3, width), _random(width)
    out, total = np.zeros_like(x), x + delta
    run(add_rms_norm, 3, x, delta, weight, out, width=width, eps=1e-6)
    np.testing.assert_array_equal(x, total)
    check(out, rms_norm_reference(total, weight, 1e-6), 1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm_far_from_zero(run, check, width):
    x, weight, bias = _random(3, width) + 50, _random(width), _random(width)
    out = np.zeros_like(x)
    run(layer_norm, 3, x, weight, bias, out, width=width, eps=1e-5)
    # Half a unit in the last place of 50 is 2e-6, of a deviation of about 1.
    check(out, layer_norm_reference(x, weight, bias, 1e-5), 2e-5)
