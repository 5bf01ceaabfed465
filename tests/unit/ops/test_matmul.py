"""Products of quantised weights against float64, for every format on every level of this host.

The tolerance is that of f32: within a block all arithmetic is on integers and therefore exact, so
only the block's factor, its conversion and its addition to the total are rounded (2**-24 each).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.ops.conftest import Runner
from tests.unit.ops.weights import expand, filled_rows, packed, packed_pairs, quantised, random_rows

from exosuit.errors import UsageError
from exosuit.kernel import Target, compile_kernel
from exosuit.ops.epilogues import Epilogue, GatedEpilogue
from exosuit.ops.formats import FORMATS
from exosuit.ops.matmul import Tile, matmul, matmul_experts

COLUMNS = 512
NOTHING = np.zeros(1, np.float32)
FORMAT = pytest.mark.parametrize("format", FORMATS.values(), ids=str)
TILES = [Tile(1, 3, ahead=4096), Tile(4, 1), Tile(8, 1)]


def _levels() -> Iterator[Target]:
    """What this host can be, and the same without any of the instructions that help."""
    for name in Target.names():
        with contextlib.suppress(UsageError):
            yield Target.host(name.rpartition("-")[2])
    yield replace(Target.host(), capabilities=frozenset())


@pytest.fixture(
    scope="module",
    params=_levels(),
    ids=lambda target: target.name if target.capabilities else "plain",
)
def level(request: pytest.FixtureRequest) -> Iterator[Runner]:
    runner = Runner(request.param)
    yield runner
    runner.device.close()


def activations(tokens, columns=COLUMNS):
    x = np.random.default_rng(tokens).normal(size=(tokens, columns)).astype(np.float32)
    return x * np.linspace(0.1, 30, tokens, dtype=np.float32)[:, None]


def multiply(run, format, weights, x, tile, rows, stride=None, epilogue=None, out=None, extra=None):
    """The kernel's product f32[tokens, stride], and the activations that it multiplied."""
    epilogue = epilogue or Epilogue()
    stride = stride or epilogue.width(rows)
    inputs, values = quantised(format, x, tile.tokens)
    tiles = -(-len(x) // tile.tokens)
    out = np.zeros((tiles * tile.tokens, stride), np.float32) if out is None else out
    panels = weights.size // (COLUMNS // format.block * format.packed_bytes)
    assert panels % tile.groups == 0
    extra = NOTHING if extra is None else extra
    run(
        matmul, panels // tile.groups, weights, *inputs, extra, out, tiles, rows=rows,
        columns=COLUMNS, stride=stride, format=format, tile=tile, epilogue=epilogue,
    )  # fmt: skip
    return out, values


@FORMAT
@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.tokens}x{t.groups}")
def test_odd_number_of_rows(level, check, format, tile):
    raw = random_rows(format, 21, COLUMNS)
    out, x = multiply(level, format, packed(format, raw), activations(2 * tile.tokens), tile, 21)
    check(out, x @ expand(format, raw).T.astype(np.float64), 1e-6)


@FORMAT
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x77])
def test_extremes_do_not_saturate(level, check, format, byte):
    """Quants and sub-scales at their bounds, activations at +127 and -127 in the worst signs."""
    raw = filled_rows(format, 8, COLUMNS, byte)
    one = np.ones(COLUMNS, np.float32)
    signs = np.random.default_rng(byte).choice((-1, 1), COLUMNS)
    alternating = np.resize((1, -1), COLUMNS)
    x = np.stack([one, -one, one * alternating, one * signs])
    out, values = multiply(level, format, packed(format, raw), x, Tile(4, 1), 8)
    assert set(np.unique(np.rint(values * 127))) == {-127, 127}
    weights = expand(format, raw).astype(np.float64)
    # Of a sum whose terms cancel only the largest partial sum is a fair measure.
    whole = np.abs(values) @ np.abs(weights).T
    assert (np.abs(out - values @ weights.T) <= 1e-6 * np.maximum(whole, 1e-30)).all()


def test_zero_activations_give_exact_zeros(run):
    for format in FORMATS.values():
        raw = random_rows(format, 8, COLUMNS)
        x = np.zeros((4, COLUMNS), np.float32)
        out, _ = multiply(
            run, format, packed(format, raw), x, Tile(4, 1), 8, out=np.ones((4, 8), "f")
        )
        assert not out.any(), format


@pytest.mark.parametrize("rows", [8, 13])
def test_stride_leaves_other_columns_alone(run, check, rows):
    format = FORMATS["Q4_0"]
    raw = random_rows(format, rows, COLUMNS)
    out = np.full((4, rows + 5), -7, np.float32)
    out, x = multiply(
        run, format, packed(format, raw), activations(4), Tile(4, 1), rows, rows + 5, out=out
    )
    check(out[:, :rows], x @ expand(format, raw).T.astype(np.float64), 1e-6)
    assert (out[:, rows:] == -7).all()


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("accumulate", [False, True], ids=["", "accumulate"])
@pytest.mark.parametrize("rows", [16, 21])
def test_bias_and_accumulation(run, check, bias, accumulate, rows):
    format, rng = FORMATS["Q5_1"], np.random.default_rng(rows)
    raw = random_rows(format, rows, COLUMNS)
    before = rng.normal(size=(8, rows)).astype(np.float32)
    extra = rng.normal(size=rows).astype(np.float32)
    out, x = multiply(
        run, format, packed(format, raw), activations(8), Tile(8, 1), rows,
        epilogue=Epilogue(bias, accumulate), out=before.copy(), extra=extra,
    )  # fmt: skip
    expected = x @ expand(format, raw).T.astype(np.float64) + bias * extra + accumulate * before
    check(out, expected, 1e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
@pytest.mark.parametrize(("width", "groups"), [(24, 2), (21, 6)])
def test_gated(run, check, activation, name, width, groups):
    format = FORMATS[name]
    gates, values = random_rows(format, width, COLUMNS), random_rows(format, width, COLUMNS)[::-1]
    epilogue = GatedEpilogue(activation=activation)
    tile = Tile(4, groups)
    x = activations(8) * np.float32(0.1)
    out, x = multiply(
        run, format, packed_pairs(format, gates, values), x, tile, 2 * width, epilogue=epilogue
    )
    assert out.shape == (8, width)
    gate, value = (x @ expand(format, raw).T.astype(np.float64) for raw in (gates, values))
    if activation == "silu":
        gate = gate / 2 * (1 + np.tanh(gate / 2))
    else:
        gate = gate / 2 * (1 + np.tanh(0.79788456080286535588 * (gate + 0.044715 * gate**3)))
    # The activation of a gate near zero has the error of exp: some units in the last place.
    check(out, gate * value, 2e-6)


@FORMAT
def test_each_tile_its_expert(run, check, format):
    """Tiles of no expert stay as they are; the others take their expert's matrix."""
    rows, tile = 24, Tile(4, 3)
    raw = random_rows(format, 3 * rows, COLUMNS).reshape(3, rows, -1)
    weights = np.concatenate([packed(format, one) for one in raw])
    experts = np.array([2, -1, 0, 1, -1], np.int32)
    inputs, x = quantised(format, activations(20), 4)
    out = np.full((20, rows), -7, np.float32)
    run(
        matmul_experts, 5, weights, experts, *inputs, out,
        rows=rows, columns=COLUMNS, format=format, tile=tile, epilogue=Epilogue(),
    )  # fmt: skip
    for t, expert in enumerate(experts):
        lines = slice(4 * t, 4 * t + 4)
        if expert < 0:
            assert (out[lines] == -7).all()
        else:
            check(out[lines], x[lines] @ expand(format, raw[expert]).T.astype(np.float64), 1e-6)


def test_gated_experts(run, check):
    format, width = FORMATS["Q4_K"], 16
    raw = random_rows(format, 4 * width, COLUMNS).reshape(2, 2, width, -1)
    weights = np.concatenate([packed_pairs(format, *pair) for pair in raw])
    experts = np.array([1, 0], np.int32)
    inputs, x = quantised(format, activations(2) * np.float32(0.1), 1)
    out = np.zeros((2, width), np.float32)
    run(
        matmul_experts, 4, weights, experts, *inputs, out, rows=2 * width, columns=COLUMNS,
        format=format, tile=Tile(1, 2), epilogue=GatedEpilogue(),
    )  # fmt: skip
    for t, expert in enumerate(experts):
        gate, value = (x[t] @ expand(format, part).T.astype(np.float64) for part in raw[expert])
        check(out[t], gate / 2 * (1 + np.tanh(gate / 2)) * value, 2e-6)


@FORMAT
@pytest.mark.parametrize("name", ["aarch64-neon", "aarch64-dotprod", "aarch64-i8mm"])
def test_compiles_for_machines_that_are_not_here(name, format):
    static = {"rows": 21, "columns": COLUMNS, "stride": 21, "format": format, "tile": Tile(1, 1)}
    assert compile_kernel(matmul, Target.named(name), **static, epilogue=Epilogue()).code
