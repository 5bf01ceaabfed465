"""Matrix times activations, for weights that are floats: F32, F16 and BF16.

The same packing (eight rows side by side, one per lane) and the same walk as `ops.matmul`, with
f32 arithmetic throughout: a weight is widened once per tile and multiplied with broadcasts.
Activations come from `ops.activations.arrange` as f32[tiles, columns, tokens].
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Scalar,
    Value,
    bf16,
    f16,
    f32,
    fma,
    group,
    i32,
    i64,
    kernel,
    loop,
    u8,
    variable,
    when,
    zeros,
)
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.formats import ROWS, Field, Fields
from exosuit.ops.matmul import Tile


@dataclass(frozen=True)
class FloatFormat:
    """A float storage type, packed `[panel, column, 8]`. Instances are in `FLOAT_FORMATS`."""

    name: str
    dtype: type[DType]

    @property
    def bytes(self) -> int:
        return self.dtype.bits // 8

    @property
    def fields(self) -> Fields:
        return (Field(0, self.bytes, self.bytes),)

    def __repr__(self) -> str:
        return self.name

    def load(self, panel: Pointer[DType], column: Value | int) -> Value:
        """f32[8]: one column of eight rows."""
        return panel.view(self.dtype).load(column * ROWS, ROWS).to(f32)


FLOAT_FORMATS = {f.name: f for f in (
    FloatFormat("F32", f32), FloatFormat("F16", f16), FloatFormat("BF16", bf16),
)}  # fmt: skip

# Columns per turn of the loop. One token alone has too few accumulators to hide the latency of
# fused multiply-adds, so it gets one for each of them.
_UNROLL = 8


@kernel
def matmul_float(
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
    """`out[token, row] = epilogue(sum over k of weights[row, k] * activations[token, k])`."""
    first = group() * tile.groups
    panels = _panels(weights, first, columns, format, tile)
    for t in loop(tiles):
        line = activations.at(t.to(i64) * (columns * tile.tokens))
        totals = _multiply_tile(panels, line, columns, format, tile)
        for m, results in enumerate(totals):
            epilogue.store(out, extra, t * tile.tokens + m, first, results, rows, stride)


@kernel
def matmul_experts_float(
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
    panel_groups = -(-rows // ROWS) // tile.groups
    t, first = group() // panel_groups, group() % panel_groups * tile.groups
    expert = tile_experts[t]
    with when(expert >= 0):
        size = columns * ROWS * format.bytes * -(-rows // ROWS)
        panels = _panels(weights.at(expert.to(i64) * size), first, columns, format, tile)
        line = activations.at(t.to(i64) * (columns * tile.tokens))
        totals = _multiply_tile(panels, line, columns, format, tile)
        for m, results in enumerate(totals):
            token, width = t * tile.tokens + m, epilogue.width(rows)
            epilogue.store(out, activations, token, first, results, rows, width)


def _panels(
    weights: Pointer[DType], first: Value, columns: int, format: FloatFormat, tile: Tile
) -> list[Pointer[DType]]:
    size = columns * ROWS * format.bytes
    return [weights.at((first + g).to(i64) * size) for g in range(tile.groups)]


def _multiply_tile(
    panels: list[Pointer[DType]],
    line: Pointer[DType],
    columns: int,
    format: FloatFormat,
    tile: Tile,
) -> list[list[Value]]:
    """For each token of the tile f32[8] for each panel."""
    by_panel = [_multiply_panel(panel, line, columns, format, tile) for panel in panels]
    return [[totals[m] for totals in by_panel] for m in range(tile.tokens)]


def _multiply_panel(
    panel: Pointer[DType], line: Pointer[DType], columns: int, format: FloatFormat, tile: Tile
) -> list[Value]:
    """f32[8] for each token of the tile."""
    chains = 4 if tile.tokens < 4 else 1
    totals = [[variable(zeros(f32, ROWS)) for _ in range(chains)] for _ in range(tile.tokens)]

    def column(index: Value | int, chain: int) -> None:
        spread = [line.load(index * tile.tokens + m).splat(ROWS) for m in range(tile.tokens)]
        weight = format.load(panel, index)
        for value, accumulators in zip(spread, totals, strict=True):
            total = accumulators[chain]
            total.value = fma(weight, value, total.value)

    whole = columns // _UNROLL * _UNROLL
    for k in loop(whole, step=_UNROLL):
        for u in range(_UNROLL):
            column(k + u, u % chains)
    for k in range(whole, columns):
        column(k, 0)
    return [_sum_of([chain.value for chain in chains_of]) for chains_of in totals]


def _sum_of(values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
