"""Rows of the embedding matrix, read from its packed form by token id."""

from __future__ import annotations

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Value,
    f32,
    group,
    i8,
    i32,
    i64,
    kernel,
    loop,
    shared,
    u8,
    zeros,
)
from exosuit.ops.blocks import ROWS, Block
from exosuit.ops.formats import Format
from exosuit.ops.matmul_float import FloatFormat


@kernel
def embed(
    weights: In[u8],
    ids: In[i32],
    out: Out[f32],
    *,
    columns: int,
    format: Format | FloatFormat,
    factor: float,
) -> None:
    """`out[token] = factor * row ids[token]`, one workgroup per token; f32[tokens, columns]."""
    token = group()
    line = out.at(token.to(i64) * columns)
    row = ids[token]
    panel, lane = (row // ROWS).to(i64), row % ROWS
    if isinstance(format, FloatFormat):
        floats, run = format.panel(weights, panel, columns), format.run or columns
        for first in loop(columns, step=run):
            source, place = format.run_at(floats, first), line.at(first)
            for k in loop(run):
                place[k] = source[k * ROWS + lane].to(f32) * factor
        return
    blocks = columns // format.block
    start = weights.at(panel * (blocks * format.packed_bytes))
    for b in loop(blocks):
        _embed_block(
            format.packed_block(start.at(b * format.packed_bytes)), lane,
            line.at(b * format.block), format, factor,
        )  # fmt: skip


def _embed_block(
    block: Block, lane: Value, line: Pointer[DType], format: Format, factor: float
) -> None:
    """Unpack a block for its eight rows, keep the one that is wanted."""
    subs = format.block // format.sub
    quants = shared(u8, 4 * ROWS)
    floats = shared(f32, 2 * ROWS)
    floats.store(format.factor(block), 0)
    if format.has_minimum:
        floats.store(format.minimum_factor(block), ROWS)
    scale = floats[lane] * factor
    least = floats[lane + ROWS] * factor if format.has_minimum else zeros(f32)
    scales, minima = shared(i8, subs * ROWS), shared(u8, subs * ROWS)
    if format.has_sub_scales:
        for four, value in enumerate(format.sub_scales(block)):
            scales.store(value, 4 * ROWS * four)
        if format.has_minimum:
            for four, value in enumerate(format.sub_minima(block)):
                minima.store(value, 4 * ROWS * four)
    for chunk in loop(format.block // format.chunk):
        for index, packed in format.quants(block, chunk):
            quants.store(packed.view(u8))
            four = quants.load(lane * 4, 4)
            values = (four.view(i8) if format.signed else four).to(i32) - format.offset
            weight, shift = scale, least
            if format.has_sub_scales:
                sub = (chunk * (format.chunk // format.sub) + index * 4 // format.sub) * ROWS
                weight = scale * scales[sub + lane].to(f32)
                if format.has_minimum:
                    shift = -(least * minima[sub + lane].to(f32))
            line.store(values.to(f32) * weight + shift, chunk * format.chunk + 4 * index)
