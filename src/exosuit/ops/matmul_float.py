"""Matrix times activations, for weights that are floats: F32, F16 and BF16.

Eight rows lie side by side, one per lane, as in `ops.matmul`, with f32 arithmetic throughout: a
weight is widened once per tile and multiplied with broadcasts. Activations come from
`ops.activations.arrange` as f32[tiles, columns, tokens].

Such weights are so many bytes that they sweep the activations out of the first cache before the
next panel needs them (Zen 4, 5632 columns: 23 GB/s where memory gives 27). So a few panels take
turns, a run of columns each: memory is still read from end to end, and a run's activations stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Scalar,
    Value,
    Variable,
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
from exosuit.ops.blocks import ROWS, Field, Fields
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.matmul import Tile


@dataclass(frozen=True)
class FloatFormat:
    """A float storage type, packed `[turn, run, panel, column, 8]`; see `ops.pack_float`.

    turns  panels that take turns; divides the panels of a matrix
    run    columns of each turn, which divide the matrix's; 0 for all of them: `[panel, column, 8]`
    Those of `FLOAT_FORMATS` have no turns; `laid_out` gives what suits a matrix.
    """

    name: str
    dtype: type[DType]
    turns: int = 1
    run: int = 0

    @property
    def bytes(self) -> int:
        return self.dtype.bits // 8

    @property
    def fields(self) -> Fields:
        return (Field(0, self.bytes, self.bytes),)

    def __repr__(self) -> str:
        return self.name if self.run == 0 else f"{self.name}[{self.turns} x {self.run}]"

    def laid_out(self, panels: int, columns: int) -> FloatFormat:
        """This type as a matrix of that size is packed: plain where nothing divides it."""
        turns = next(n for n in (_TURNS, 4, 2, 1) if panels % n == 0)
        run = next((n for n in range(_RUN, 7, -8) if columns % n == 0), columns)
        return replace(self, turns=turns, run=run) if turns > 1 and run < columns else self

    # In the kernel language ---------------------------------------------------------------

    def panel(self, weights: Pointer[DType], index: Value, columns: int) -> Pointer[DType]:
        """Where the first run of a panel lies, as elements."""
        turn = (index // self.turns).to(i64) * (self.turns * columns * ROWS)
        within = (index % self.turns).to(i64) * ((self.run or columns) * ROWS)
        return weights.view(self.dtype).at(turn + within)

    def run_at(self, panel: Pointer[DType], column: Value) -> Pointer[DType]:
        """The run of the panel that begins with that column."""
        return panel.at(column * (self.turns * ROWS))

    def load(self, run: Pointer[DType], column: Value | int) -> Value:
        """f32[8]: one column of eight rows."""
        return run.load(column * ROWS, ROWS).to(f32)


# Eight panels leave an eighth of the traffic of activations; runs of 512 of them take 2 KiB.
_TURNS = 8
_RUN = 512

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
    panels = [format.panel(weights, first + g, columns) for g in range(tile.groups)]
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
        matrix = weights.at(expert.to(i64) * size)
        panels = [format.panel(matrix, first + g, columns) for g in range(tile.groups)]
        line = activations.at(t.to(i64) * (columns * tile.tokens))
        totals = _multiply_tile(panels, line, columns, format, tile)
        for m, results in enumerate(totals):
            token, width = t * tile.tokens + m, epilogue.width(rows)
            epilogue.store(out, activations, token, first, results, rows, width)


def _multiply_tile(
    panels: list[Pointer[DType]],
    line: Pointer[DType],
    columns: int,
    format: FloatFormat,
    tile: Tile,
) -> list[list[Value]]:
    """For each token of the tile f32[8] for each panel."""
    totals = [[variable(zeros(f32, ROWS)) for _ in panels] for _ in range(tile.tokens)]
    run = format.run or columns
    for first in loop(columns, step=run):
        activations = line.at(first * tile.tokens)
        for p, panel in enumerate(panels):
            sums = [totals[m][p] for m in range(tile.tokens)]
            _add_run(format.run_at(panel, first), activations, run, format, sums)
    return [[total.value for total in of_token] for of_token in totals]


def _add_run(
    weights: Pointer[DType],
    activations: Pointer[DType],
    columns: int,
    format: FloatFormat,
    totals: list[Variable],
) -> None:
    """Add the products of a panel's run to its f32[8] for each token of the tile."""
    tokens = len(totals)
    chains = 4 if tokens < 4 else 1
    sums = [
        [variable(total.value), *(variable(zeros(f32, ROWS)) for _ in range(chains - 1))]
        for total in totals
    ]

    def column(index: Value | int, chain: int) -> None:
        spread = [activations.load(index * tokens + m).splat(ROWS) for m in range(tokens)]
        weight = format.load(weights, index)
        for value, accumulators in zip(spread, sums, strict=True):
            total = accumulators[chain]
            total.value = fma(weight, value, total.value)

    whole = columns // _UNROLL * _UNROLL
    for k in loop(whole, step=_UNROLL):
        for u in range(_UNROLL):
            column(k + u, u % chains)
    for k in range(whole, columns):
        column(k, 0)
    for total, parts in zip(totals, sums, strict=True):
        total.value = _sum_of([part.value for part in parts])


def _sum_of(values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
