"""Matrix times activations, for quantised weights: one token to a full prefill.

A workgroup takes `tile.groups` neighbouring groups of eight packed rows and walks all tiles of
`tile.tokens` tokens. Within a tile each accumulator belongs to eight rows and one token, so a
vector of quants is read and unpacked once per tile and multiplied `tile.tokens` times, and the
activations come as broadcasts from memory. Nothing is summed across lanes.

Activations are laid out by `ops.quantise` for exactly this walk:
    quants  i8   [tiles, k / 4, tokens, 4]
    scales  f32  [tiles, k / block, tokens]
    sums    i16  [tiles, k / block, sums / 2, tokens, 2], sums of the quants per sub-block;
                 [tiles, k / block, tokens] for formats without sub-blocks, and where these have
                 minima (`Format.scaled_sums`) f32, times the scale
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
    f32,
    fma,
    group,
    i8,
    i16,
    i32,
    i64,
    kernel,
    loop,
    pair_dot,
    prefetch,
    shared,
    target,
    u8,
    u32,
    variable,
    when,
    zeros,
)
from exosuit.ops.blocks import ROWS, Block
from exosuit.ops.dots import Sum, dots_for
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.formats import Format


@dataclass(frozen=True)
class Tile:
    """What a workgroup computes.

    tokens    activations that are multiplied at a time; their sums stay in registers
    groups    panels of eight rows, one after the other; the epilogue sees all of them
    ahead     bytes of weights to prefetch ahead; 0 leaves it to the hardware
    keep      prefetch into the second cache, or (False) past it as data that is read once
    """

    tokens: int
    groups: int
    ahead: int = 0
    keep: bool = False


@kernel
def matmul(
    weights: In[u8],
    quants: In[i8],
    scales: In[f32],
    sums: In[i16],
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
    """`out[token, row] = epilogue(sum over k of weights[row, k] * activations[token, k])`.

    weights  packed, ceil(rows / 8) panels of columns / block blocks
    extra    what the epilogue adds: a bias f32[rows], or unused
    out      f32[tiles * tile.tokens, epilogue.width(rows)], lines `stride` apart
    """
    first = group() * tile.groups
    panels = _panels(weights, first, columns, format, tile)
    for t in loop(tiles):
        activation = _Activation.of_tile(quants, scales, sums, t, columns, format, tile.tokens)
        totals = _multiply_tile(panels, activation, columns, format, tile)
        for m, results in enumerate(totals):
            epilogue.store(out, extra, t * tile.tokens + m, first, results, rows, stride)


@kernel
def matmul_experts(
    weights: In[u8],
    tile_experts: In[i32],
    quants: In[i8],
    scales: In[f32],
    sums: In[i16],
    out: Out[f32],
    *,
    rows: int,
    columns: int,
    format: Format,
    tile: Tile,
    epilogue: Epilogue,
) -> None:
    """The same where each tile has its own matrix. `tiles * (panels / tile.groups)` groups.

    weights       packed matrices of all experts, one after the other
    tile_experts  i32[tiles]: which of them a tile takes; -1 leaves its output alone
    """
    panel_groups = -(-rows // ROWS) // tile.groups
    t, first = group() // panel_groups, group() % panel_groups * tile.groups
    expert = tile_experts[t]
    with when(expert >= 0):
        size = packed_panel_bytes(columns, format) * -(-rows // ROWS)
        panels = _panels(weights.at(expert.to(i64) * size), first, columns, format, tile)
        activation = _Activation.of_tile(quants, scales, sums, t, columns, format, tile.tokens)
        totals = _multiply_tile(panels, activation, columns, format, tile)
        for m, results in enumerate(totals):
            token, width = t * tile.tokens + m, epilogue.width(rows)
            epilogue.store(out, scales, token, first, results, rows, width)


def packed_panel_bytes(columns: int, format: Format) -> int:
    """Bytes of eight packed rows."""
    return columns // format.block * format.packed_bytes


def _panels(
    weights: Pointer[DType], first: Value, columns: int, format: Format, tile: Tile
) -> list[Pointer[DType]]:
    size = packed_panel_bytes(columns, format)
    return [weights.at((first + g).to(i64) * size) for g in range(tile.groups)]


def _multiply_tile(
    panels: list[Pointer[DType]],
    activation: _Activation,
    columns: int,
    format: Format,
    tile: Tile,
) -> list[list[Value]]:
    """For each token of the tile f32[8] for each panel."""
    # One panel after the other: two streams at once cost more than they share.
    by_panel = [_multiply_panel(panel, activation, columns, format, tile) for panel in panels]
    return [[totals[m] for totals in by_panel] for m in range(tile.tokens)]


def _multiply_panel(
    panel: Pointer[DType], activation: _Activation, columns: int, format: Format, tile: Tile
) -> list[Value]:
    """f32[8] for each token of the tile."""
    totals = [variable(zeros(f32, ROWS)) for _ in range(tile.tokens)]
    for b in loop(columns // format.block):
        place = panel.at(b * format.packed_bytes)
        for line in range(0, format.packed_bytes if tile.ahead else 0, 64):
            prefetch(place, tile.ahead + line, tile.keep)
        block_parts = _scaled_block if format.has_sub_scales else _plain_block
        parts = block_parts(format.packed_block(place), activation.of_block(b), format)
        for total, (whole, factor, constant) in zip(totals, parts, strict=True):
            product = fma(whole, factor, total.value)
            total.value = product if constant is None else product + constant
    return [total.value for total in totals]


@dataclass(frozen=True)
class _Activation:
    """The activations of a tile (or, after `of_block`, of one block of it)."""

    quants: Pointer[DType]
    scales: Pointer[DType]
    sums: Pointer[DType]
    format: Format
    tokens: int

    @staticmethod
    def of_tile(
        quants: Pointer[DType],
        scales: Pointer[DType],
        sums: Pointer[DType],
        tile: Value,
        columns: int,
        format: Format,
        tokens: int,
    ) -> _Activation:
        blocks = columns // format.block
        wide = tile.to(i64)
        sums = sums.view(f32) if format.scaled_sums else sums
        return _Activation(
            quants.at(wide * (columns * tokens)),
            scales.at(wide * (blocks * tokens)),
            sums.at(wide * (blocks * sums_per_block(format) * tokens)),
            format,
            tokens,
        )

    def of_block(self, block: Value) -> _Activation:
        return _Activation(
            self.quants.at(block * (self.format.block * self.tokens)),
            self.scales.at(block * self.tokens),
            self.sums.at(block * (sums_per_block(self.format) * self.tokens)),
            self.format,
            self.tokens,
        )

    def of_chunk(self, chunk: Value) -> _Activation:
        """From a chunk of this block on; for `group` only."""
        place = chunk * (self.format.chunk * self.tokens)
        return replace(self, quants=self.quants.at(place))

    def group(self, index: int, token: int) -> Value:
        """Four activations, broadcast to eight rows."""
        place, dwords = index * self.tokens + token, self.quants.view(u32)
        if target().family == "aarch64":
            # Its dots take any lane of a register for all rows: one load serves four of them.
            return dwords.load(place // 4 * 4, 4).shuffle([place % 4] * ROWS)
        return dwords.load(place).splat(ROWS)

    def scale(self, token: int) -> Value:
        return self.scales.load(token).splat(ROWS)

    def sum(self, token: int) -> Value:
        """i32[8]: the sum of the quants of a block that has no sub-blocks."""
        return self.sums.load(token).to(i32).splat(ROWS)

    def scaled_sum(self, token: int) -> Value:
        """f32[8]: likewise, times the scale."""
        return self.sums.load(token).splat(ROWS)

    def sum_pair(self, pair: int, token: int) -> Value:
        """i16[16]: the sums of two neighbouring sub-blocks, broadcast as pairs."""
        return self.sums.view(u32).load(pair * self.tokens + token).splat(ROWS).view(i16)

    def sub_sum(self, sub: int, token: int) -> Value:
        """i16[8]: the sum of one sub-block, broadcast from its lane of a vector."""
        place = (sub // 2 * self.tokens + token) * 2 + sub % 2
        return self.sums.load(place // 8 * 8, 8).shuffle([place % 8] * ROWS)


def sums_per_block(format: Format) -> int:
    """How many partial sums of the quants go with a block of activations."""
    return format.block // format.sub


Part = tuple[Value, Value, Value | None]
"""For one token: the integer dot as f32, its factor, a constant to add; f32[8] each."""


def _plain_block(block: Block, here: _Activation, format: Format) -> list[Part]:
    """A block whose only scale is the row's factor."""
    dots = dots_for(format, target())
    sums = [Sum(dots, None, None) for _ in range(here.tokens)]
    for index, raw in format.quants(block, 0):
        quants = dots.prepare(raw)
        sums = [total.add(quants, here.group(index, m)) for m, total in enumerate(sums)]
    factor = format.factor(block)
    offset = format.offset + dots.extra_offset
    parts: list[Part] = []
    for m, total in enumerate(sums):
        whole = total.finish()
        if offset:
            whole = whole - here.sum(m) * offset
        constant = None
        if format.has_minimum:
            constant = format.minimum_factor(block) * here.scaled_sum(m)
        parts.append((whole.to(f32), factor * here.scale(m), constant))
    return parts


def _scaled_block(block: Block, here: _Activation, format: Format) -> list[Part]:
    """A block whose sub-blocks have integer scales (and minima): integers up to its end."""
    dots = dots_for(format, target())
    scales = list(format.sub_scales(block))
    scratch = shared(i8, format.block // format.sub * ROWS)
    for four, value in enumerate(scales):
        scratch.store(value, 4 * ROWS * four)
    totals = [variable(zeros(i32, ROWS)) for _ in range(here.tokens)]
    subs = format.chunk // format.sub
    groups = format.sub // 4
    for chunk in loop(format.block // format.chunk):
        # Pointers move with the chunk, so that all that follows is at constant distances.
        chunk_scales = scratch.at(chunk * (subs * ROWS))
        chunk_here = here.of_chunk(chunk)
        sums: list[Sum] = []
        for index, raw in format.quants(block, chunk):
            if index % groups == 0:
                multiplier = dots.multiplier(chunk_scales.load(index // groups * ROWS, ROWS))
                sums = [Sum(dots, total.value, multiplier) for total in totals]
            quants = dots.prepare(raw)
            sums = [total.add(quants, chunk_here.group(index, m)) for m, total in enumerate(sums)]
            if index % groups == groups - 1:
                for total, finished in zip(totals, sums, strict=True):
                    total.value = finished.finish()
    factor = format.factor(block)
    offset = format.offset + dots.extra_offset
    lows = _by_sub_block(scales) if offset else []
    minima = _by_sub_block(list(format.sub_minima(block))) if format.has_minimum else []
    parts: list[Part] = []
    for m, total in enumerate(totals):
        whole = total.value
        if offset:
            whole = whole - _dot_sums(lows, here, m) * offset
        constant = None
        if minima:
            least = _dot_sums(minima, here, m).to(f32)
            constant = -(least * (format.minimum_factor(block) * here.scale(m)))
        parts.append((whole.to(f32), factor * here.scale(m), constant))
    return parts


def _by_sub_block(fours: list[Value]) -> list[Value]:
    """Bytes of four sub-blocks times eight rows each, made ready for `_dot_sums`.

    i16[8] for each sub-block; with `pair_dot`, i16[16] of neighbours for each row.
    """
    size = 2 if target().has("pair_dot") else 1
    return [
        four.shuffle([first + row + ROWS * k for row in range(ROWS) for k in range(size)]).to(i16)
        for four in fours
        for first in range(0, 4 * ROWS, size * ROWS)
    ]


def _dot_sums(integers: list[Value], here: _Activation, token: int) -> Value:
    """i32[8]: the sum over sub-blocks of an integer times the activations' sum."""
    total = zeros(i32, ROWS)
    for k, value in enumerate(integers):
        if target().has("pair_dot"):
            total = total + pair_dot(value, here.sum_pair(k, token))
        else:
            total = total + value.to(i32) * here.sub_sum(k, token).to(i32)
    return total
