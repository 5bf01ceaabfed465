"""Elementwise kernels against float64, below, at and above one workgroup's share."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.elementwise import (
    CHUNK,
    activate,
    add,
    chunks,
    gated,
    gated_reference,
    scale,
    softcap,
    softcap_reference,
)

RNG = np.random.default_rng(2)
COUNTS = [1, 7, 8, CHUNK - 1, CHUNK, 3 * CHUNK + 5]


@pytest.mark.parametrize("count", COUNTS)
def test_add_scale_softcap(run, check, count):
    x, delta = (RNG.normal(size=count).astype(np.float32) * 40 for _ in range(2))
    total = x.copy()
    run(add, chunks(count), total, delta, count)
    np.testing.assert_array_equal(total, x + delta)
    scaled = x.copy()
    run(scale, chunks(count), scaled, 0.3, count)
    np.testing.assert_array_equal(scaled, x * np.float32(0.3))
    capped = x.copy()
    run(softcap, chunks(count), capped, count, cap=30.0)
    check(capped, softcap_reference(x, 30.0), 1e-6)


def test_nothing_beyond_the_count_is_touched(run):
    x = np.ones(40, np.float32)
    run(scale, chunks(37), x, 2.0, 37)
    assert (x[:37] == 2).all()
    assert (x[37:] == 1).all()


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("width", COUNTS)
def test_gated(run, check, activation, width):
    x = (RNG.normal(size=(3, 2 * width)) * 4).astype(np.float32)
    x[0, 0], x[1, 0], x[2, 0] = 200, -200, 0
    out = np.zeros((3, width), np.float32)
    run(gated, 3 * chunks(width), x, out, width=width, activation=activation)
    check(out, gated_reference(x, activation), 2e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("count", COUNTS)
def test_activate(run, check, activation, count):
    x = (RNG.normal(size=count) * 4).astype(np.float32)
    x[0] = 4  # errors are measured against the largest result, which must not be tiny
    ones = np.ones_like(x)
    expected = gated_reference(np.concatenate([x, ones])[None], activation)[0]
    run(activate, chunks(count), x, count, activation=activation)
    check(x, expected, 2e-6)
