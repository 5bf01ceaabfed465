"""Epilogues alone: what is stored where, given results that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.kernel import In, InOut, f32, group, kernel
from exosuit.ops.epilogues import ACTIVATIONS, Epilogue, GatedEpilogue, gelu, silu
from exosuit.ops.formats import ROWS

NOTHING = np.zeros(1, np.float32)


@kernel
def store(
    results: In[f32], extra: In[f32], out: InOut[f32], *,
    epilogue: Epilogue, rows: int, stride: int, panels: int,
) -> None:  # fmt: skip
    """Group g stores f32[panels, 8] for token g, from the first row on."""
    token = group()
    loaded = [results.load((token * panels + k) * ROWS, ROWS) for k in range(panels)]
    epilogue.store(out, extra, token, token * 0, loaded, rows, stride)


@kernel
def activate(x: In[f32], out: InOut[f32], *, name: str) -> None:
    out.store(ACTIVATIONS[name](x.load(group() * ROWS, ROWS)), group() * ROWS)


@pytest.mark.parametrize("rows", [1, 8, 13, 16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_bias_then_what_was_there(run, rows, bias, accumulate):
    """Whole numbers, so that the result is exact; columns past the rows are left alone."""
    rng = np.random.default_rng(rows)
    results = rng.integers(-99, 99, (3, 2, ROWS)).astype(np.float32)
    extra = rng.integers(-99, 99, rows).astype(np.float32)
    before = rng.integers(-99, 99, (3, 20)).astype(np.float32)
    out, panels = before.copy(), -(-rows // ROWS)
    run(
        store, 3, np.ascontiguousarray(results[:, :panels]), extra, out, rows=rows, stride=20,
        panels=panels, epilogue=Epilogue(bias=bias, accumulate=accumulate),
    )  # fmt: skip
    expected = before.copy()
    expected[:, :rows] = (
        results.reshape(3, -1)[:, :rows] + bias * extra + accumulate * before[:, :rows]
    )
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("width", [1, 8, 13])
def test_gates_and_values_in_turn(run, check, width):
    rng = np.random.default_rng(width)
    panels = -(-width // ROWS)
    results = rng.normal(size=(2, panels, 2, ROWS)).astype(np.float32) * 3
    before = rng.normal(size=(2, 20)).astype(np.float32)
    out = before.copy()
    epilogue = GatedEpilogue(accumulate=True)
    run(
        store, 2, results, NOTHING, out,
        rows=2 * width, stride=20, panels=2 * panels, epilogue=epilogue,
    )  # fmt: skip
    gate, value = (results[:, :, k].reshape(2, -1)[:, :width].astype(np.float64) for k in (0, 1))
    check(out[:, :width], before[:, :width] + gate / (1 + np.exp(-gate)) * value, 1e-6)
    np.testing.assert_array_equal(out[:, width:], before[:, width:])
    assert epilogue.width(2 * width) == width


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_activations_over_all_magnitudes(run, check, name):
    """From denormals to the largest numbers: no NaN, no infinity that the formula has not."""
    powers = np.logspace(-42, 38, 500)
    x = np.concatenate([np.linspace(-20, 20, 3992), powers, -powers, np.zeros(8)])
    x = x.astype(np.float32)[: x.size // ROWS * ROWS]
    out = np.zeros_like(x)
    run(activate, x.size // ROWS, x, out, name=name)
    wide = x.astype(np.float64)
    if name == "silu":
        with np.errstate(over="ignore"):
            expected = wide / (1 + np.exp(-wide))
    else:
        inner = np.clip(0.79788456080286535588 * (wide + 0.044715 * wide**3), -50, 50)
        expected = wide / 2 * (1 + np.tanh(inner))
    assert np.isfinite(out).all()
    # Relative to x, as 1 + tanh cancels where it is small: ten units in the last place.
    limit = 1e-6 * np.abs(wide) + 1e-38
    error = np.abs(out - expected)
    assert (error <= limit).all(), x[(error - limit).argmax()]


def test_the_table_of_activations():
    assert {"silu": silu, "gelu": gelu} == ACTIVATIONS


def test_epilogues_are_told_apart_by_their_repr():
    """It is part of a program's key."""
    some = [Epilogue(b, a) for b in (False, True) for a in (False, True)]
    some += [GatedEpilogue(activation=name) for name in ACTIVATIONS]
    assert len({repr(epilogue) for epilogue in some}) == len(some)
