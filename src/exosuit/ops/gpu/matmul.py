"""Quantised matrix times a few activations on a GPU: a lane is a row, a wave a panel of 32.

Each lane loads its row's record in runs of 16 bytes, a wave 512 neighbouring bytes, every byte of
the matrix once per tile of tokens. Activations are the same for all lanes, so they arrive by
scalar loads where the chip has them and are an operand of the dots. The blocks of a panel are dealt
out to the waves of the workgroup, whose sums meet in shared memory at the end.

The offset of a format whose quants are stored unsigned is what a dot starts from: `-offset` times
the sum of the activations. Activations come from `ops.gpu.activations.quantise_gpu`:
    quants  i8   [tiles, k / 4, tokens, 4]
    scales  f32  [tiles, k / block, tokens]
    sums    i32  [tiles, k / sub, tokens], or f32 for formats with minima
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Scalar,
    Value,
    barrier,
    dot4,
    f32,
    fma,
    group,
    i8,
    i32,
    i64,
    kernel,
    loop,
    shared,
    u8,
    u32,
    variable,
    wave,
    wave_lane,
    when,
    zeros,
)
from exosuit.ops.blocks import LANE_ROWS, Record
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.formats import Format
from exosuit.ops.matmul import Tile

WAVES = 8
_WINDOW = 16  # dwords of activations that are loaded at once
_BLOCKS = 4  # of one scale each, which a wave takes at a time


@kernel(group_size=32 * WAVES)
def matmul_gpu(
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
    """As `ops.matmul.matmul`, with panels of 32 rows. `panels / tile.groups` groups."""
    first = group() * tile.groups
    panels = _panels(weights, first, columns, format, tile)
    for t in loop(tiles):
        activation = Activation.of_tile(quants, scales, sums, t, columns, format, tile.tokens)
        totals = _multiply(panels, activation, columns, format)
        join_waves(totals, out, extra, t * tile.tokens, first, rows, stride, epilogue)


@kernel(group_size=32 * WAVES)
def matmul_experts_gpu(
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
    """As `ops.matmul.matmul_experts`. `tiles * (panels / tile.groups)` groups."""
    panel_groups = -(-rows // LANE_ROWS) // tile.groups
    t, first = group() // panel_groups, group() % panel_groups * tile.groups
    expert = tile_experts[t]
    with when(expert >= 0):
        size = packed_panel_bytes(columns, format) * -(-rows // LANE_ROWS)
        panels = _panels(weights.at(expert.to(i64) * size), first, columns, format, tile)
        activation = Activation.of_tile(quants, scales, sums, t, columns, format, tile.tokens)
        totals = _multiply(panels, activation, columns, format)
        width = epilogue.width(rows)
        join_waves(totals, out, scales, t * tile.tokens, first, rows, width, epilogue)


def packed_panel_bytes(columns: int, format: Format) -> int:
    """Bytes of 32 packed rows."""
    return columns // format.block * format.block_bytes * LANE_ROWS


def _panels(
    weights: Pointer[DType], first: Value, columns: int, format: Format, tile: Tile
) -> list[Pointer[DType]]:
    size = packed_panel_bytes(columns, format)
    return [weights.at((first + g).to(i64) * size) for g in range(tile.groups)]


def _multiply(
    panels: list[Pointer[DType]], activation: Activation, columns: int, format: Format
) -> list[list[Value]]:
    """For each token of the tile this lane's share of a row of each panel."""
    totals = [[variable(zeros(f32)) for _ in panels] for _ in range(activation.tokens)]
    block_bytes, lane = format.block_bytes * LANE_ROWS, wave_lane()

    def turn(first: Value, count: int) -> None:
        for b in range(count):
            here = activation.of_block(first + b)
            places = [panel.at(first * block_bytes).at(b * block_bytes) for panel in panels]
            records = [Record(place, lane, format.fields, streaming=True) for place in places]
            for g, products in enumerate(block_products(records, here, format)):
                for parts, (whole, factor, constant) in zip(totals, products, strict=True):
                    product = fma(whole, factor, parts[g].value)
                    parts[g].value = product if constant is None else product + constant

    # Small blocks are taken some at a time, so that enough loads are under way.
    blocks = columns // format.block
    together = _BLOCKS if not format.has_sub_scales and activation.tokens <= 4 else 1
    whole = blocks // (together * WAVES) * (together * WAVES)
    for first in loop(whole, start=wave() * together, step=together * WAVES, unroll=1):
        turn(first, together)
    if whole < blocks:
        for first in loop(blocks, start=wave() + whole, step=WAVES, unroll=1):
            turn(first, 1)
    return [[part.value for part in parts] for parts in totals]


def join_waves(
    totals: list[list[Value]],
    out: Pointer[DType],
    extra: Pointer[DType],
    first_token: Value,
    first_panel: Value,
    rows: int,
    stride: int,
    epilogue: Epilogue,
) -> None:
    """Add up what the waves have found, and store it; tokens are dealt out to the waves."""
    tokens, panels, lane = len(totals), len(totals[0]), wave_lane()
    size = tokens * panels * LANE_ROWS
    found = shared(f32, WAVES * size)
    mine = found.at(wave() * size).at(lane)
    for m, parts in enumerate(totals):
        for g, part in enumerate(parts):
            mine.store(part, (m * panels + g) * LANE_ROWS)
    barrier()
    for m in loop(tokens, start=wave(), step=WAVES):
        line = found.at(m * (panels * LANE_ROWS)).at(lane)
        results: list[Value] = []
        for g in range(panels):
            total = line.load(g * LANE_ROWS)
            for w in range(1, WAVES):
                total = total + line.load(w * size + g * LANE_ROWS)
            results.append(total)
        epilogue.store(out, extra, first_token + m, first_panel, results, rows, stride, lane)
    barrier()


@dataclass(frozen=True)
class Activation:
    """The activations of a tile (or, after `of_block`, of one block of it)."""

    quants: Pointer[DType]
    scales: Pointer[DType]
    sums: Pointer[DType]
    format: Format
    tokens: int
    _windows: dict[int, Value] = field(default_factory=dict[int, Value])

    @staticmethod
    def of_tile(
        quants: Pointer[DType],
        scales: Pointer[DType],
        sums: Pointer[DType],
        tile: Value,
        columns: int,
        format: Format,
        tokens: int,
    ) -> Activation:
        wide = tile.to(i64)
        return Activation(
            quants.view(u32).at(wide * (columns // 4 * tokens)),
            scales.at(wide * (columns // format.block * tokens)),
            sums.view(f32 if format.has_minimum else i32).at(
                wide * (columns // format.sub * tokens)
            ),
            format,
            tokens,
        )

    def of_block(self, block: Value) -> Activation:
        subs = self.format.block // self.format.sub
        return Activation(
            self.quants.at(block * (self.format.block // 4 * self.tokens)),
            self.scales.at(block * self.tokens),
            self.sums.at(block * (subs * self.tokens)),
            self.format,
            self.tokens,
        )

    def group(self, index: int, token: int) -> Value:
        """i8[4]: four neighbouring elements of a token."""
        place = index * self.tokens + token
        size = min(_WINDOW, self.format.block // 4 * self.tokens)
        window = place // size
        if window not in self._windows:
            self._windows[window] = self.quants.load(window * size, size, align=16)
        return self._windows[window][place % size].view(i8)

    def scale(self, token: int) -> Value:
        return self.scales.load(token)

    def sum(self, sub: int, token: int) -> Value:
        """The sum of one sub-block, i32 or f32."""
        return self.sums.load(sub * self.tokens + token)

    def start(self, sub: int, token: int) -> Value:
        """i32: what the dot of a sub-block starts from."""
        if not self.format.offset:
            return zeros(i32)
        return self.sum(sub, token) * -self.format.offset


Part = tuple[Value, Value, Value | None]
"""For one token: the dot as f32, its factor, a constant to add."""


def block_products(records: list[Record], here: Activation, format: Format) -> list[list[Part]]:
    """For each record the products of this lane's row with each token, over one block.

    The records go through their quants side by side, so that activations are needed only once and
    not for long.
    """
    if format.has_sub_scales:
        return _scaled_block(records, here, format)
    sums = [[here.start(0, m) for m in range(here.tokens)] for _ in records]
    for index, rows in _side_by_side(records, format, 0):
        sums = [
            [dot4(quants, here.group(index, m), total) for m, total in enumerate(line)]
            for quants, line in zip(rows, sums, strict=True)
        ]
    found: list[list[Part]] = []
    for record, line in zip(records, sums, strict=True):
        factor = format.factor(record)
        parts: list[Part] = []
        for m, total in enumerate(line):
            scale = here.scale(m)
            constant = None
            if format.has_minimum:
                constant = format.minimum_factor(record) * (scale * here.sum(0, m))
            parts.append((total.to(f32), factor * scale, constant))
        found.append(parts)
    return found


def _side_by_side(
    records: list[Record], format: Format, chunk: int
) -> Iterator[tuple[int, list[Value]]]:
    """Four neighbouring quants of each record, with their number in the chunk."""
    for steps in zip(*(format.quants(record, chunk) for record in records), strict=True):
        yield steps[0][0], [quants for _, quants in steps]


def _scaled_block(records: list[Record], here: Activation, format: Format) -> list[list[Part]]:
    """Blocks whose sub-blocks have integer scales (and minima): each dot is exact in f32."""
    scales = [
        [four[k].to(f32) for four in format.sub_scales(record) for k in range(4)]
        for record in records
    ]
    totals = [[zeros(f32) for _ in range(here.tokens)] for _ in records]
    sums: list[list[Value]] = []
    groups = format.sub // 4
    for chunk in range(format.block // format.chunk):
        first = chunk * format.chunk // 4
        for index, rows in _side_by_side(records, format, chunk):
            sub, place = divmod(first + index, groups)
            if place == 0:
                sums = [[here.start(sub, m) for m in range(here.tokens)] for _ in records]
            sums = [
                [dot4(quants, here.group(first + index, m), total) for m, total in enumerate(line)]
                for quants, line in zip(rows, sums, strict=True)
            ]
            if place == groups - 1:
                totals = [
                    [
                        fma(part.to(f32), scale[sub], total)
                        for part, total in zip(line, whole, strict=True)
                    ]
                    for line, whole, scale in zip(sums, totals, scales, strict=True)
                ]
    return [
        _with_minima(record, line, here, format)
        for record, line in zip(records, totals, strict=True)
    ]


def _with_minima(
    record: Record, totals: list[Value], here: Activation, format: Format
) -> list[Part]:
    factor = format.factor(record)
    minima: list[Value] = []
    if format.has_minimum:
        minima = [four[k].to(f32) for four in format.sub_minima(record) for k in range(4)]
    parts: list[Part] = []
    for m, total in enumerate(totals):
        scale, constant = here.scale(m), None
        if minima:
            least = zeros(f32)
            for sub, minimum in enumerate(minima):
                least = fma(minimum, here.sum(sub, m), least)
            constant = -(least * (format.minimum_factor(record) * scale))
        parts.append((total, factor * scale, constant))
    return parts
