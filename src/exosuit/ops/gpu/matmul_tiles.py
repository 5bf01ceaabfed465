"""Quantised matrix times many activations, by the matrix units of a GPU: the prefill.

A wave takes a panel of 32 rows (two for a gate and its value) and a tile of 16 or 32 tokens. It
unpacks 32 elements of its rows at a time into shared memory as signed bytes, which becomes the one
operand; the other are the tokens' quantised activations, row by row as they lie in memory. Within a
sub-block everything is an integer, so a product is that of `ops.gpu.matmul` up to the order of a
few additions of f32, and a token's logits do not depend on how it was batched.

Activations come from `quantise_gpu` with tiles of one token: quants i8 [token, k], scales f32
[token, k / block], sums [token, k / sub].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exosuit.kernel import (
    DType,
    In,
    InOut,
    MatrixTile,
    Out,
    Pointer,
    Scalar,
    Value,
    Variable,
    f32,
    fma,
    group,
    i8,
    i32,
    i64,
    join,
    keep_order,
    kernel,
    loop,
    mma,
    mma_tile,
    shared,
    u8,
    u32,
    variable,
    wave,
    wave_barrier,
    wave_lane,
    when,
    zeros,
)
from exosuit.ops.blocks import LANE_ROWS, Record
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.formats import Format
from exosuit.ops.gpu.matmul import packed_panel_bytes
from exosuit.ops.matmul import Tile

WAVES = 4
_PART = 32  # elements that are unpacked at a time
_PITCH = 48  # bytes of a row of them; multiples of 16, and neighbours use other banks


@kernel(group_size=32 * WAVES)
def matmul_tiles(
    weights: In[u8],
    quants: In[i8],
    scales: In[f32],
    sums: In[u32],
    extra: In[f32],
    out: InOut[f32],
    tiles: Scalar[i32],
    *,
    rows: int,
    columns: int,
    stride: int,
    format: Format,
    tile: Tile,
    epilogue: Epilogue,
) -> None:
    """As `ops.gpu.matmul.matmul_gpu`. `tiles * ceil(panels / (tile.groups * WAVES))` groups."""
    panels = panel_count(rows, tile.groups)
    turns = -(-panels // (tile.groups * WAVES))
    t, first = group() // turns, (group() % turns * WAVES + wave()) * tile.groups
    with when(first < panels):
        work = _WaveTile(format, tile, columns, quants, scales, sums, t)
        totals = work.multiply(weights, first)
        work.store(totals, out, extra, first, rows, stride, epilogue)


@kernel(group_size=32 * WAVES)
def matmul_experts_tiles(
    weights: In[u8],
    tile_experts: In[i32],
    quants: In[i8],
    scales: In[f32],
    sums: In[u32],
    out: Out[f32],
    *,
    rows: int,
    columns: int,
    format: Format,
    tile: Tile,
    epilogue: Epilogue,
) -> None:
    """The same where each tile has its own matrix; see `ops.matmul.matmul_experts`."""
    panels = panel_count(rows, tile.groups)
    turns = -(-panels // (tile.groups * WAVES))
    t, first = group() // turns, (group() % turns * WAVES + wave()) * tile.groups
    expert = tile_experts[t]
    with when((expert >= 0) & (first < panels)):
        size = packed_panel_bytes(columns, format) * panels
        work = _WaveTile(format, tile, columns, quants, scales, sums, t)
        totals = work.multiply(weights.at(expert.to(i64) * size), first)
        work.store(totals, out, scales, first, rows, epilogue.width(rows), epilogue)


def panel_count(rows: int, groups: int) -> int:
    """Panels of a matrix of which `groups` are interleaved."""
    return -(-rows // groups // LANE_ROWS) * groups


@dataclass(frozen=True)
class _Element:
    """One element of an accumulator: its token within the tile, its row within the panel."""

    token: Value
    row: Value


Totals = list[list[list[list[Variable]]]]
"""By panel, 16 tokens and row tile; each element of a lane's share by itself."""


class _WaveTile:
    """One wave's tokens, and how their product with panels of rows is made."""

    def __init__(
        self,
        format: Format,
        tile: Tile,
        columns: int,
        quants: Pointer[DType],
        scales: Pointer[DType],
        sums: Pointer[DType],
        number: Value,
    ) -> None:
        self.format, self.tile, self.columns = format, tile, columns
        self.unit: MatrixTile = mma_tile(i8)
        self.lane = wave_lane()
        self.first = number * tile.tokens
        wide = self.first.to(i64)
        self.blocks = columns // format.block
        self.subs = format.block // format.sub
        self.quants = quants.at(wide * columns)
        self.scales = scales.at(wide * self.blocks)
        self.sums = sums.view(f32).at(wide * (self.blocks * self.subs))
        self.token_tiles = tile.tokens // self.unit.m
        self.row_tiles = LANE_ROWS // self.unit.n
        # Blocks of one scale are walked in fours, whose scales are then loaded at once.
        self.together = next(n for n in (4, 2, 1) if self.blocks % n == 0)
        if format.has_sub_scales:
            self.together = 1
        own = 2 * LANE_ROWS * _PITCH
        self.unpacked = shared(i8, WAVES * own).at(wave() * own)
        factors = (2 * self.subs + 2) * LANE_ROWS
        self.factors = shared(f32, WAVES * factors).at(wave() * factors)

    def multiply(self, weights: Pointer[DType], first: Value) -> Totals:
        """The products with `tile.groups` panels from `first` on."""
        format, block_bytes = self.format, self.format.block_bytes * LANE_ROWS
        size = packed_panel_bytes(self.columns, format)
        count = self.unit.m * self.unit.n // 32
        totals = [
            [
                [[variable(zeros(f32)) for _ in range(count)] for _ in range(self.row_tiles)]
                for _ in range(self.token_tiles)
            ]
            for _ in range(self.tile.groups)
        ]
        for b in loop(self.blocks, step=self.together, unroll=1):
            for g in range(self.tile.groups):
                panel = weights.at((first + g).to(i64) * size).at(b * block_bytes)
                scales = self._token_scales(b)
                for n in range(self.together):
                    record = Record(panel.at(n * block_bytes), self.lane, format.fields)
                    self._block(record, b, n, scales, totals[g])
        return totals

    def _elements(self, row_tile: int) -> Iterator[_Element]:
        for token, row in self.unit.c_places():
            yield _Element(token, row + row_tile * self.unit.n)

    def _token_scales(self, block: Value) -> list[list[Value]]:
        """For each 16 tokens and element: the scales of the blocks that are walked together."""
        return [
            [
                self.scales.at((place.token + i * self.unit.m) * self.blocks + block).load(
                    0, self.together
                )
                for place in self._elements(0)
            ]
            for i in range(self.token_tiles)
        ]

    # A block ------------------------------------------------------------------------------

    def _block(
        self,
        record: Record,
        first_block: Value,
        number: int,
        scales: list[list[Value]],
        totals: list[list[list[Variable]]],
    ) -> None:
        """Add one block of a panel to the totals."""
        format, block = self.format, first_block + number
        self._note_factors(record)
        sums = self._products(record, block)
        for i in range(self.token_tiles):
            for j in range(self.row_tiles):
                for z, place in enumerate(self._elements(j)):
                    factor = self._factor(0, place.row) * scales[i][z][number]
                    total = totals[i][j][z]
                    total.value = fma(sums[i][j][z], factor, total.value)
        if format.has_minimum:
            self._minima(block, number, scales, totals)

    def _note_factors(self, record: Record) -> None:
        """The rows' scales into shared memory, where the lanes that hold their sums find them."""
        format = self.format
        values = [format.factor(record)]
        if format.has_minimum:
            values.append(format.minimum_factor(record))
        if format.has_sub_scales:
            values += [four[k].to(f32) for four in format.sub_scales(record) for k in range(4)]
            if format.has_minimum:
                values += [four[k].to(f32) for four in format.sub_minima(record) for k in range(4)]
        wave_barrier()
        for n, value in enumerate(values):
            self.factors.at(n * LANE_ROWS).store(value, self.lane)
        wave_barrier()

    def _factor(self, number: int, row: Value) -> Value:
        return self.factors.at(number * LANE_ROWS).load(row)

    def _products(self, record: Record, block: Value) -> list[list[list[Value]]]:
        """The block's integer sums, times the sub-blocks' scales: f32 for each element."""
        format, unit = self.format, self.unit
        first_scale = 2 if format.has_minimum else 1
        count = unit.m * unit.n // 32
        found = [
            [[zeros(f32)] * count for _ in range(self.row_tiles)] for _ in range(self.token_tiles)
        ]
        sums = [[unit.zeros()] * self.row_tiles for _ in range(self.token_tiles)]
        line = self.quants.at(block * format.block)
        for part, words in self._parts(record):
            keep_order()
            buffer = self.unpacked.at(part % 2 * (LANE_ROWS * _PITCH))
            for half in (0, 1):
                place = buffer.view(u32).at(self.lane * (_PITCH // 4)).at(4 * half)
                place.store(join(*words[4 * half : 4 * half + 4]), 0, align=16)
            wave_barrier()
            for k in range(0, _PART, unit.k):
                at = part * _PART + k
                tokens = [
                    unit.load_a(line.at(at).at(self.columns * unit.m * i), self.columns)
                    for i in range(self.token_tiles)
                ]
                for j in range(self.row_tiles):
                    rows = unit.load_b(buffer.at(j * unit.n * _PITCH + k), _PITCH)
                    for i in range(self.token_tiles):
                        sums[i][j] = mma(tokens[i], rows, sums[i][j])
                if (at + unit.k) % format.sub == 0:
                    sub = at // format.sub
                    for j in range(self.row_tiles):
                        scaled: dict[str, Value] = {}
                        for z, place in enumerate(self._elements(j)):
                            for i in range(self.token_tiles):
                                value = sums[i][j][z].to(f32)
                                if not format.has_sub_scales:
                                    found[i][j][z] = value
                                    continue
                                if place.row.ir not in scaled:
                                    scaled[place.row.ir] = self._factor(
                                        first_scale + sub, place.row
                                    )
                                found[i][j][z] = fma(value, scaled[place.row.ir], found[i][j][z])
                    sums = [[unit.zeros()] * self.row_tiles for _ in range(self.token_tiles)]
        return found

    def _parts(self, record: Record) -> Iterator[tuple[int, list[Value]]]:
        """Each 32 elements of this lane's row: their number, and eight words of signed bytes."""
        format = self.format
        words: list[Value] = []
        for chunk in range(format.block // format.chunk):
            for index, quants in format.quants(record, chunk):
                words.append(_signed(quants.view(u32), format.offset))
                if len(words) == _PART // 4:
                    yield (chunk * format.chunk // 4 + index) * 4 // _PART, words
                    words = []

    def _minima(
        self,
        block: Value,
        number: int,
        scales: list[list[Value]],
        totals: list[list[list[Variable]]],
    ) -> None:
        """What is constant within a (sub-)block, times the sums of the activations."""
        format, pitch = self.format, self.blocks * self.subs
        first = 2 + self.subs
        for i in range(self.token_tiles):
            keep_order()
            for z, place in enumerate(self._elements(0)):
                token = place.token + i * self.unit.m
                sums = self.sums.at(token * pitch + block * self.subs).load(0, self.subs)
                for j in range(self.row_tiles):
                    row = list(self._elements(j))[z].row
                    factor = self._factor(1, row) * scales[i][z][number]
                    total = totals[i][j][z]
                    if not format.has_sub_scales:
                        total.value = fma(sums, factor, total.value)
                        continue
                    least = zeros(f32)
                    for sub in range(self.subs):
                        least = fma(self._factor(first + sub, row), sums[sub], least)
                    total.value = fma(least, -factor, total.value)

    # The end ------------------------------------------------------------------------------

    def store(
        self,
        totals: Totals,
        out: Pointer[DType],
        extra: Pointer[DType],
        first: Value,
        rows: int,
        stride: int,
        epilogue: Epilogue,
    ) -> None:
        for i in range(self.token_tiles):
            for j in range(self.row_tiles):
                for z, place in enumerate(self._elements(j)):
                    token = self.first + (place.token + i * self.unit.m)
                    results = [panel[i][j][z].value for panel in totals]
                    epilogue.store(out, extra, token, first, results, rows, stride, place.row)


def _signed(words: Value, offset: int) -> Value:
    """Four unsigned bytes less `offset` each, as signed ones; no byte borrows of another."""
    if not offset:
        return words
    return ((words | 0x80808080) - offset * 0x01010101) ^ 0x80808080
