"""Rows of the embedding matrix on a GPU: a lane unpacks whole blocks of the token's row."""

from __future__ import annotations

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Value,
    deal,
    each,
    f32,
    group,
    i8,
    i32,
    i64,
    kernel,
    u8,
)
from exosuit.ops.blocks import LANE_ROWS, Record
from exosuit.ops.formats import Format
from exosuit.ops.gpu.matmul_float import padded_columns
from exosuit.ops.matmul_float import FloatFormat


@kernel(group_size=128)
def embed_gpu(
    weights: In[u8],
    ids: In[i32],
    out: Out[f32],
    *,
    columns: int,
    format: Format | FloatFormat,
    factor: float,
) -> None:
    """As `ops.embedding.embed`: `out[token] = factor * row ids[token]`, a workgroup per token."""
    line = out.at(group().to(i64) * columns)
    row = ids[group()]
    panel, lane = (row // LANE_ROWS).to(i64), row % LANE_ROWS
    if isinstance(format, FloatFormat):
        run = 16 // format.bytes
        size = padded_columns(columns, format) * format.bytes * LANE_ROWS
        source = weights.at(panel * size).view(format.dtype)
        for k in each(columns):
            place = (k // run * LANE_ROWS + lane) * run + k % run
            line[k] = source[place].to(f32) * factor
        return
    blocks, block_bytes = columns // format.block, format.block_bytes * LANE_ROWS
    start = weights.at(panel * (blocks * block_bytes))
    for b in deal(blocks):
        record = Record(start.at(b * block_bytes), lane, format.fields)
        _embed_block(record, line.at(b * format.block), format, factor)


def _embed_block(record: Record, line: Pointer[DType], format: Format, factor: float) -> None:
    scale = format.factor(record) * factor
    least = format.minimum_factor(record) * factor if format.has_minimum else None
    scales: list[Value] = []
    minima: list[Value] = []
    if format.has_sub_scales:
        scales = [four[k].to(f32) for four in format.sub_scales(record) for k in range(4)]
        if format.has_minimum:
            minima = [four[k].to(f32) for four in format.sub_minima(record) for k in range(4)]
    for chunk in range(format.block // format.chunk):
        for index, packed in format.quants(record, chunk):
            place = chunk * format.chunk + 4 * index
            values = (packed.view(i8) if format.signed else packed.view(u8)).to(i32)
            weight, shift = scale, least
            if scales:
                weight = scale * scales[place // format.sub]
            if minima and least is not None:
                shift = -(least * minima[place // format.sub])
            values = (values - format.offset).to(f32)
            if shift is None:
                line.store(values * weight, place)
            else:
                line.store(values * weight + shift, place)
