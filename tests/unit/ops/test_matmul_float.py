"""Products of float weights against float64.

Weights are widened exactly and all sums are fused multiply-adds of f32, so with n columns an
error is at most n roundings of the sum of magnitudes; that bound is asked for, element by element.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.ops.weights import expand, packed, packed_pairs, random_rows

from exosuit.kernel import Target, compile_kernel
from exosuit.ops.activations import tile_order
from exosuit.ops.epilogues import Epilogue, GatedEpilogue
from exosuit.ops.matmul import Tile
from exosuit.ops.matmul_float import FLOAT_FORMATS, matmul_experts_float, matmul_float

NOTHING = np.zeros(1, np.float32)
FORMAT = pytest.mark.parametrize("format", FLOAT_FORMATS.values(), ids=str)


def activations(tokens, columns):
    x = np.random.default_rng(columns).normal(size=(tokens, columns)).astype(np.float32)
    return x * np.linspace(0.1, 30, tokens, dtype=np.float32)[:, None]


def assert_product(out, x, weights):
    """`out` is x times the transposed weights, up to one rounding for each column."""
    x, weights = x.astype(np.float64), weights.astype(np.float64)
    limit = 2**-24 * x.shape[1] * (np.abs(x) @ np.abs(weights).T)
    error = np.abs(out - x @ weights.T)
    worst = np.unravel_index((error - limit).argmax(), error.shape)
    assert (error <= limit).all(), f"worst at {worst}: off by {error[worst]} of {limit[worst]}"


@FORMAT
@pytest.mark.parametrize("columns", [5, 61, 256])
@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(1, 3), Tile(4, 3), Tile(8, 1)], ids=str)
def test_odd_rows_and_columns(run, format, columns, tile):
    raw = random_rows(format, 21, columns)
    x = activations(2 * tile.tokens, columns)
    out = np.full((len(x), 24), -7, np.float32)
    run(
        matmul_float, 3 // tile.groups, packed(format, raw), tile_order(x, tile.tokens, 1), NOTHING,
        out, 2, rows=21, columns=columns, stride=24, format=format, tile=tile, epilogue=Epilogue(),
    )  # fmt: skip
    assert_product(out[:, :21], x, expand(format, raw))
    assert (out[:, 21:] == -7).all()


@FORMAT
def test_numbers_that_the_type_can_just_hold(run, format):
    """The largest and the smallest normal numbers, zeros of both signs and denormals."""
    half = format.name == "F16"
    top, tiny = (65504.0, 2.0**-24) if half else (2.0**127, 2.0**-130)
    row = np.array([top, -top, tiny, -tiny, 0.0, -0.0, 1.0, -1.0], np.float32)
    if format.name == "BF16":
        raw = (row.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    else:
        raw = row.astype(np.float16 if half else np.float32).view(np.uint8)
    raw = np.tile(raw, (8, 1))
    x = np.eye(8, dtype=np.float32)
    out = np.zeros((8, 8), np.float32)
    run(
        matmul_float, 1, packed(format, raw), tile_order(x, 8, 1), NOTHING, out, 1,
        rows=8, columns=8, stride=8, format=format, tile=Tile(8, 1), epilogue=Epilogue(),
    )  # fmt: skip
    np.testing.assert_array_equal(out, np.tile(expand(format, raw)[0][:, None], (1, 8)))


@FORMAT
@pytest.mark.parametrize("tile", [Tile(1, 4), Tile(1, 1), Tile(4, 2), Tile(8, 1)], ids=str)
def test_panels_that_take_turns(run, format, tile):
    """Eight panels in turns of four, runs of 24 of 72 columns; a workgroup takes a part of them."""
    format = replace(format, turns=4, run=24)
    raw = random_rows(FLOAT_FORMATS[format.name], 61, 72)
    x = activations(2 * tile.tokens, 72)
    out = np.full((len(x), 64), -7, np.float32)
    run(
        matmul_float, 8 // tile.groups, packed(format, raw), tile_order(x, tile.tokens, 1), NOTHING,
        out, 2, rows=61, columns=72, stride=64, format=format, tile=tile, epilogue=Epilogue(),
    )  # fmt: skip
    assert_product(out[:, :61], x, expand(format, raw))
    assert (out[:, 61:] == -7).all()


def test_turns_divide_the_matrix():
    format = FLOAT_FORMATS["F16"]
    assert format.laid_out(704, 5632) == replace(format, turns=8, run=512)
    assert format.laid_out(12, 960) == replace(format, turns=4, run=480)
    for panels, columns in ((7, 2048), (8, 512), (8, 61), (8, 1021)):
        assert format.laid_out(panels, columns) is format


def test_gated_with_turns(run, check):
    format = replace(FLOAT_FORMATS["F16"], turns=2, run=16)
    width, columns = 21, 48
    gates, values = (random_rows(FLOAT_FORMATS["F16"], width, columns)[::k] for k in (1, -1))
    x = activations(1, columns) * np.float32(0.1)
    out = np.zeros((1, width), np.float32)
    run(
        matmul_float, 3, packed_pairs(format, gates, values), x, NOTHING, out, 1,
        rows=2 * width, columns=columns, stride=width, format=format, tile=Tile(1, 2),
        epilogue=GatedEpilogue(),
    )  # fmt: skip
    gate, value = (x @ expand(format, raw).T.astype(np.float64) for raw in (gates, values))
    check(out, gate / 2 * (1 + np.tanh(gate / 2)) * value, 2e-6)


def test_gated(run, check):
    format, width, columns = FLOAT_FORMATS["F16"], 21, 61
    gates, values = random_rows(format, width, columns), random_rows(format, width, columns)[::-1]
    x = activations(4, columns) * np.float32(0.1)
    out = np.zeros((4, width), np.float32)
    run(
        matmul_float, 3, packed_pairs(format, gates, values), tile_order(x, 4, 1), NOTHING, out, 1,
        rows=2 * width, columns=columns, stride=width, format=format, tile=Tile(4, 2),
        epilogue=GatedEpilogue(),
    )  # fmt: skip
    gate, value = (x @ expand(format, raw).T.astype(np.float64) for raw in (gates, values))
    check(out, gate / 2 * (1 + np.tanh(gate / 2)) * value, 2e-6)


@FORMAT
@pytest.mark.parametrize(("columns", "layout"), [(61, {}), (48, {"turns": 3, "run": 16})])
def test_each_tile_its_expert(run, format, columns, layout):
    format, rows = replace(format, **layout), 24
    raw = random_rows(format, 3 * rows, columns).reshape(3, rows, -1)
    weights = np.concatenate([packed(format, one) for one in raw])
    experts = np.array([2, -1, 0, 1], np.int32)
    x = activations(16, columns)
    out = np.full((16, rows), -7, np.float32)
    run(
        matmul_experts_float, 4, weights, experts, tile_order(x, 4, 1), out,
        rows=rows, columns=columns, format=format, tile=Tile(4, 3), epilogue=Epilogue(),
    )  # fmt: skip
    for t, expert in enumerate(experts):
        lines = slice(4 * t, 4 * t + 4)
        if expert < 0:
            assert (out[lines] == -7).all()
        else:
            assert_product(out[lines], x[lines], expand(format, raw[expert]))


@FORMAT
def test_compiles_for_machines_that_are_not_here(format):
    target = Target.named("aarch64-neon")
    static = {"rows": 21, "columns": 61, "stride": 21, "format": format, "tile": Tile(4, 1)}
    assert compile_kernel(matmul_float, target, **static, epilogue=Epilogue()).code
