"""One tile of attention: a few tokens' queries of one kv head, and what they gather page by page.

Both products, queries with keys and weights with values, run over a strip of the page in blocks of
rows whose accumulators stay in registers. The strip is converted to f32 once for all rows; a tile
that is a single block, as in decode, converts where it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from exosuit.kernel import (
    DType,
    Pointer,
    Target,
    Value,
    Variable,
    constant,
    f32,
    fma,
    i32,
    i64,
    loop,
    maximum,
    prefetch,
    rint,
    select,
    shared,
    tanh,
    target,
    variable,
    vector,
    zeros,
)
from exosuit.ops.cache import LANES, PAGE, CacheFormat

_LOG2_E = 1.4426950408889634
# Below every score, but finite: differences of it are numbers.
LOWEST = -1e30


@dataclass(frozen=True)
class Attention:
    """One layer's attention.

    query_heads  a multiple of `cache.kv_heads`
    tile_tokens  most tokens of a tile; 1 for decode
    splits       workgroups that share the pages of a tile; more than 1 needs `combine`
    window       a row sees this many positions, its own included; 0 for all
    softcap      scores become `softcap * tanh(score / softcap)`; 0 for none
    """

    cache: CacheFormat
    query_heads: int
    tile_tokens: int
    splits: int = 1
    window: int = 0
    softcap: float = 0.0

    @property
    def repeat(self) -> int:
        """Query heads for each kv head."""
        return self.query_heads // self.cache.kv_heads

    @property
    def rows(self) -> int:
        return self.tile_tokens * self.repeat

    @property
    def out_width(self) -> int:
        """Of a token of the output; of a partial output where pages are split."""
        return self.query_heads * self.cache.head_dim if self.splits == 1 else self.partial_width

    @property
    def partial_width(self) -> int:
        return self.query_heads * self.splits * self.part

    @property
    def part(self) -> int:
        """f32 of one partial row: the unnormalised output, then its maximum and its sum."""
        return self.cache.head_dim + LANES


class Tile:
    """What a workgroup holds: its rows' queries, scores, running maxima and sums, and outputs."""

    def __init__(self, shape: Attention, first: Value, count: Value, kv_head: Value) -> None:
        self.shape = shape
        self.size = shape.cache.head_dim
        self.first = first
        self.count = count
        self.kv_head = kv_head
        self.ahead: Pointer[DType] | None = None
        self.block = _row_block(shape.rows)
        blocks = -(-shape.rows // self.block)
        self.blocks = (count * shape.repeat + (self.block - 1)) // self.block
        self.single = blocks == 1
        rows = blocks * self.block
        self.queries = shared(f32, rows * self.size)
        self.scores = shared(f32, rows * PAGE)
        self.outputs = shared(f32, rows * self.size)
        self.maxima = shared(f32, rows)
        self.fades = shared(f32, rows)
        self.sums = shared(f32, rows * LANES)
        budget = _accumulators(target()) // self.block
        self.key_width = _vectors(PAGE, budget)
        self.value_width = _vectors(self.size, budget)
        widest = max(self.size * self.key_width, PAGE * self.value_width)
        self.strip = shared(f32, widest * LANES)

    # The three steps of a page ------------------------------------------------------------

    def score(self, head: Pointer[DType], scales: Pointer[DType], seen: Value) -> None:
        """Scores of all rows with the first `seen` tokens of a page (rounded up to a strip)."""
        width = self.key_width

        def finish(row: Value, column: Value, totals: list[list[Variable]]) -> None:
            line = self.scores.at(row * PAGE).at(column)
            for r, line_totals in enumerate(totals):
                for c, total in enumerate(line_totals):
                    line.store(total.value, r * PAGE + c * LANES)

        for strip in loop((seen + (width * LANES - 1)) // (width * LANES)):
            column = strip * (width * LANES)

            def rows(first: Value, column: Value = column) -> list[list[Value]]:
                self._prefetch(column * self.size + first * (width * LANES), 4 * width * LANES)
                return self.shape.cache.key_rows(head, scales, column, first, width)

            self._product(
                self.queries, self.size, rows, self.size // 4, width,
                lambda row: [[zeros(f32, LANES)] * width] * self.block,
                lambda row, totals, column=column: finish(row, column, totals),
            )  # fmt: skip

    def soften(self, positions: Pointer[DType], origin: Value) -> None:
        """Turn scores into weights; note by how much each row's past fades."""
        shape = self.shape
        for token in loop(self.count):
            own = positions[self.first + token]
            for k in loop(shape.repeat):
                row = token * shape.repeat + k
                line = self.scores.at(row * PAGE)
                scores = [
                    self._visible(line.load(c, LANES), origin + c, own)
                    for c in range(0, PAGE, LANES)
                ]
                peak = scores[0]
                for score in scores[1:]:
                    peak = _larger(peak, score)
                old = self.maxima.load(row)
                new = maximum(old, peak.reduce("max"))
                self.maxima.store(new, row)
                shift = (-_LOG2_E * new).splat(LANES)
                fade = _exp2(fma(old.splat(LANES), _LOG2_E, shift))
                self.fades.store(fade[0], row)
                total = self.sums.load(row * LANES, LANES) * fade
                for c, score in enumerate(scores):
                    weight = _exp2(fma(score, _LOG2_E, shift))
                    total = total + weight
                    line.store(weight, c * LANES)
                self.sums.store(total, row * LANES)

    def gather(self, head: Pointer[DType], scales: Pointer[DType], seen: Value) -> None:
        """Add the weighted values of the first `seen` tokens (rounded up to 4) to the outputs."""
        width = self.value_width
        for strip in loop(self.size // (width * LANES)):
            column = strip * (width * LANES)

            def rows(first: Value, column: Value = column) -> list[list[Value]]:
                self._prefetch(column * PAGE + first * (width * LANES), 4 * width * LANES)
                return self.shape.cache.value_rows(head, scales, column, first, width)

            def begin(row: Value, column: Value = column) -> list[list[Value]]:
                line = self.outputs.at(row * self.size).at(column)
                return [
                    [
                        line.load(r * self.size + c * LANES, LANES) * self.fades.at(row).load(r)
                        for c in range(width)
                    ]
                    for r in range(self.block)
                ]

            def finish(row: Value, totals: list[list[Variable]], column: Value = column) -> None:
                line = self.outputs.at(row * self.size).at(column)
                for r, line_totals in enumerate(totals):
                    for c, total in enumerate(line_totals):
                        line.store(total.value, r * self.size + c * LANES)

            self._product(self.scores, PAGE, rows, (seen + 3) // 4, width, begin, finish)

    # Parts of them ------------------------------------------------------------------------

    def _product(
        self,
        left: Pointer[DType],
        left_width: int,
        right: Callable[[Value], list[list[Value]]],
        steps: Value | int,
        width: int,
        begin: Callable[[Value], list[list[Value]]],
        finish: Callable[[Value, list[list[Variable]]], None],
    ) -> None:
        """Rows times a strip: all rows of `left` with `4 * steps` rows of `right`.

        right   gives four rows of the strip from a given one on, `width` vectors each
        begin   gives the accumulators of a block of rows, `finish` stores them
        """
        if self.single:
            # Each element of the strip is needed once: convert it where it is used.
            self._block(left, left_width, right, steps, begin, finish, constant(i32, 0))
            return
        size = width * LANES
        for step in loop(steps):
            place = self.strip.at(step * (4 * size))
            for j, parts in enumerate(right(step * 4)):
                for c, part in enumerate(parts):
                    place.store(part, j * size + c * LANES)

        def converted(first: Value) -> list[list[Value]]:
            place = self.strip.at(first * size)
            return [
                [place.load(j * size + c * LANES, LANES) for c in range(width)] for j in range(4)
            ]

        for block in loop(self.blocks):
            row = block * self.block
            self._block(left, left_width, converted, steps, begin, finish, row)

    def _block(
        self,
        left: Pointer[DType],
        left_width: int,
        right: Callable[[Value], list[list[Value]]],
        steps: Value | int,
        begin: Callable[[Value], list[list[Value]]],
        finish: Callable[[Value, list[list[Variable]]], None],
        row: Value,
    ) -> None:
        totals = [[variable(x) for x in line] for line in begin(row)]
        lines = left.at(row * left_width)
        for step in loop(steps):
            here = lines.at(step * 4)
            for j, parts in enumerate(right(step * 4)):
                for r, line_totals in enumerate(totals):
                    factor = here.load(r * left_width + j).splat(LANES)
                    for part, total in zip(parts, line_totals, strict=True):
                        total.value = fma(factor, part, total.value)
        finish(row, totals)

    def _prefetch(self, first: Value, count: int) -> None:
        """Ask for `count` elements of what is read after this half of a page, from `first` on."""
        assert self.ahead is not None, "set before each half"
        place = self.ahead.at(first)
        for n in range(0, count, 64 * 8 // place.dtype.bits):
            prefetch(place, n)

    def _visible(self, score: Value, position: Value, own: Value) -> Value:
        """The score where the row may look, minus infinity elsewhere."""
        cap = self.shape.softcap
        if cap:
            score = tanh(score * (1 / cap)) * cap
        there = position.splat(LANES) + vector(i32, list(range(LANES)))
        visible = there <= own
        if self.shape.window:
            visible = visible & (there > own - self.shape.window)
        return select(visible, score, float("-inf"))

    # Beginning and end --------------------------------------------------------------------

    def take_queries(self, queries: Pointer[DType]) -> None:
        """Copy the rows' queries together and start every row with nothing seen."""
        shape = self.shape
        for token in loop(self.count):
            source = queries.at((self.first + token).to(i64) * (shape.query_heads * self.size))
            source = source.at(self.kv_head * (shape.repeat * self.size))
            for part in loop(shape.repeat * self.size // LANES):
                value = source.load(part * LANES, LANES)
                self.queries.at(token * (shape.repeat * self.size)).store(value, part * LANES)
        for part in loop(self.count * (shape.repeat * self.size // LANES)):
            self.outputs.store(zeros(f32, LANES), part * LANES)
        for row in loop(self.count * shape.repeat):
            self.maxima.store(constant(f32, LOWEST), row)
            self.sums.store(zeros(f32, LANES), row * LANES)

    def store(self, out: Pointer[DType]) -> None:
        """The outputs, each divided by its row's sum."""
        shape = self.shape
        for token in loop(self.count):
            line = out.at((self.first + token).to(i64) * shape.out_width)
            line = line.at(self.kv_head * (shape.repeat * self.size))
            for k in loop(shape.repeat):
                row = token * shape.repeat + k
                factor = 1.0 / self.sums.load(row * LANES, LANES).reduce("add")
                for n in range(0, self.size, LANES):
                    value = self.outputs.at(row * self.size).load(n, LANES)
                    line.at(k * self.size).store(value * factor, n)

    def store_partial(self, out: Pointer[DType], split: Value) -> None:
        """The outputs as they are, with each row's maximum and sum behind them."""
        shape = self.shape
        for token in loop(self.count):
            line = out.at((self.first + token).to(i64) * shape.out_width)
            for k in loop(shape.repeat):
                row = token * shape.repeat + k
                head = self.kv_head * shape.repeat + k
                place = line.at((head * shape.splits + split) * shape.part)
                for n in range(0, self.size, LANES):
                    place.store(self.outputs.at(row * self.size).load(n, LANES), n)
                place.store(self.maxima.load(row), self.size)
                place.store(self.sums.load(row * LANES, LANES).reduce("add"), self.size + 1)


def _row_block(rows: int) -> int:
    """Rows that are multiplied together: all of a few, or 3 to 6 with the least waste."""
    if rows <= 8:
        return rows
    return min((6, 5, 4, 3), key=lambda block: -rows % block)


def _accumulators(machine: Target) -> int:
    """Vectors of sums that stay in registers beside a strip's row and a factor."""
    return 24 if machine.has("avx512") else 12


def _vectors(size: int, budget: int) -> int:
    """Vectors of a strip: a power of two that divides the row and keeps within the budget."""
    return max(n for n in (1, 2, 4, 8) if n == 1 or (n <= budget and size % (n * LANES) == 0))


def _larger(a: Value, b: Value) -> Value:
    """One instruction where `maximum` takes three: neither is a NaN."""
    return select(a > b, a, b)


def _exp2(x: Value) -> Value:
    """2**x for x <= 0, f32[8]; relative error below 3e-7; 0 below -126, where nothing matters."""
    clamped = _larger(x, constant(f32, -126.0, LANES))
    whole = rint(clamped)
    rest = clamped - whole
    total = constant(f32, _EXP2[0], LANES)
    for coefficient in _EXP2[1:]:
        total = fma(total, rest, coefficient)
    result = (total.view(i32) + (whole.to(i32) << 23)).view(f32)
    return select(x > -126.0, result, 0.0)


# Taylor's series of 2**x about 0, highest power first; |x| <= 1/2.
_EXP2 = [np.log(2.0) ** k / float(np.prod(range(1, k + 1))) for k in range(6, -1, -1)]
