"""Float matrix times activations on a GPU: a lane is a row, in runs of 16 bytes.

The shape of `ops.gpu.matmul` with f32 arithmetic: a run is 8 columns of F16 or BF16, or 4 of F32;
rows are filled with zeros to whole runs. Activations come from `ops.gpu.activations.arrange_gpu` as
f32[tiles, padded columns, tokens].
"""

from __future__ import annotations

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Scalar,
    Value,
    f32,
    fma,
    group,
    i32,
    i64,
    kernel,
    loop,
    u8,
    variable,
    wave,
    wave_lane,
    when,
    zeros,
)
from exosuit.ops.blocks import LANE_ROWS
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.gpu.matmul import WAVES, join_waves
from exosuit.ops.matmul import Tile
from exosuit.ops.matmul_float import FloatFormat
from exosuit.units import round_up

RUN_BYTES = 16
"""Neighbouring bytes of a row."""

# Runs of a wave in one turn of its loop: enough loads under way at a time.
_RUNS = 4


def padded_columns(columns: int, format: FloatFormat) -> int:
    """Columns that a packed row has: whole runs."""
    return round_up(columns, RUN_BYTES // format.bytes)


@kernel(group_size=32 * WAVES)
def matmul_float_gpu(
    weights: In[u8],
    activations: In[f32],
    extra: In[f32],
    out: InOut[f32],
    tiles: Scalar[i32],
    *,
    rows: int,
    columns: int,
    stride: int,
    format: FloatFormat,
    tile: Tile,
    epilogue: Epilogue,
) -> None:
    """As `ops.matmul_float.matmul_float`, with panels of 32 rows."""
    first, padded = group() * tile.groups, padded_columns(columns, format)
    panels = _panels(weights, first, padded, format, tile)
    for t in loop(tiles):
        line = activations.at(t.to(i64) * (padded * tile.tokens))
        totals = _multiply(panels, line, padded, format, tile)
        join_waves(totals, out, extra, t * tile.tokens, first, rows, stride, epilogue)


@kernel(group_size=32 * WAVES)
def matmul_experts_float_gpu(
    weights: In[u8],
    tile_experts: In[i32],
    activations: In[f32],
    out: Out[f32],
    *,
    rows: int,
    columns: int,
    format: FloatFormat,
    tile: Tile,
    epilogue: Epilogue,
) -> None:
    """The same where each tile has its own matrix; see `ops.matmul.matmul_experts`."""
    panel_groups = -(-rows // LANE_ROWS) // tile.groups
    padded = padded_columns(columns, format)
    t, first = group() // panel_groups, group() % panel_groups * tile.groups
    expert = tile_experts[t]
    with when(expert >= 0):
        size = padded * LANE_ROWS * format.bytes * -(-rows // LANE_ROWS)
        panels = _panels(weights.at(expert.to(i64) * size), first, padded, format, tile)
        line = activations.at(t.to(i64) * (padded * tile.tokens))
        totals = _multiply(panels, line, padded, format, tile)
        width = epilogue.width(rows)
        join_waves(totals, out, activations, t * tile.tokens, first, rows, width, epilogue)


def _panels(
    weights: Pointer[DType], first: Value, padded: int, format: FloatFormat, tile: Tile
) -> list[Pointer[DType]]:
    size = padded * LANE_ROWS * format.bytes
    return [weights.at((first + g).to(i64) * size) for g in range(tile.groups)]


def _multiply(
    panels: list[Pointer[DType]],
    line: Pointer[DType],
    padded: int,
    format: FloatFormat,
    tile: Tile,
) -> list[list[Value]]:
    """For each token of the tile this lane's share of a row of each panel."""
    run = RUN_BYTES // format.bytes
    runs, lane = padded // run, wave_lane()
    totals = [[variable(zeros(f32)) for _ in panels] for _ in range(tile.tokens)]

    def turn(first: Value, count: int) -> None:
        for r in range(count):
            values = line.at(first * (run * tile.tokens)).at(r * run * tile.tokens)
            window = values.load(0, run * tile.tokens, align=16) if tile.tokens <= 4 else None
            for g, panel in enumerate(panels):
                place = panel.at(first * (RUN_BYTES * LANE_ROWS)).at(r * RUN_BYTES * LANE_ROWS)
                weights = place.at(lane * RUN_BYTES).view(format.dtype)
                weight = weights.load(0, run, RUN_BYTES, streaming=True).to(f32)
                for k in range(run):
                    for m in range(tile.tokens):
                        number = k * tile.tokens + m
                        value = window[number] if window is not None else values.load(number)
                        total = totals[m][g]
                        total.value = fma(weight[k], value, total.value)

    whole = runs // (_RUNS * WAVES) * (_RUNS * WAVES)
    for first in loop(whole, start=wave() * _RUNS, step=_RUNS * WAVES, unroll=1):
        turn(first, _RUNS)
    for first in loop(runs, start=wave() + whole, step=WAVES, unroll=1):
        turn(first, 1)
    return [[total.value for total in parts] for parts in totals]
