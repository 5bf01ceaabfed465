"""Activations made ready for the GPU's products: optionally normalised, then quantised.

A workgroup takes one token, a lane eight neighbouring elements at a time; what a block has in
common is agreed on by shuffles. The numbers are those of `ops.activations`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Value,
    absolute,
    each,
    f32,
    fma,
    group,
    group_sum,
    i8,
    i32,
    kernel,
    lane,
    loop,
    maximum,
    minimum,
    rint,
    rsqrt,
    select,
    shuffle_xor,
    target,
    u32,
    variable,
    when,
    zeros,
)
from exosuit.ops.activations import Prologue, source_row
from exosuit.units import round_up

_LANES = 256
_RUN = 8
"""Neighbouring elements of one lane."""


@kernel(group_size=_LANES)
def quantise_gpu(
    x: In[f32],
    weight: In[f32],
    rows: In[i32],
    quants: Out[i8],
    scales: Out[f32],
    sums: Out[u32],
    *,
    columns: int,
    stride: int,
    block: int,
    sub: int,
    tokens: int,
    prologue: Prologue,
    choices: int = 0,
    float_sums: bool = False,
) -> None:
    """As `ops.activations.quantise`, except for the sums. One workgroup per token.

    sums  i32, or f32 if `float_sums`, [tiles, columns / sub, tokens]
    """
    for row in source_row(x, rows, stride, choices):
        tile, m = group() // tokens, group() % tokens
        scale = _scale(row, columns, prologue)
        dwords = quants.view(u32).at(tile * (columns // 4 * tokens))
        block_scales = scales.at(tile * (columns // block * tokens))
        sub_sums = sums.at(tile * (columns // sub * tokens))
        for start in loop(round_up(columns, _LANES * _RUN), step=_LANES * _RUN):
            first = start + lane() * _RUN
            # Lanes past the end work on the last elements, and keep that for themselves.
            place = minimum(first, columns - _RUN)
            value = prologue.apply(row.load(place, _RUN), weight.load(place, _RUN), scale)
            # Compared as integers, which makes a NaN the largest; see `ops.activations`.
            largest = absolute(value).view(i32).reduce("max")
            peak = _over(block // _RUN, largest, maximum).view(f32)
            inverse = select(peak.eq(0.0), 0.0, 127.0 / peak)
            whole = rint(value * inverse).to(i32)
            total = _over(sub // _RUN, whole.reduce("add"), lambda a, b: a + b)
            packed = whole.to(i8).view(u32)
            with when(first < columns):
                for k in range(_RUN // 4):
                    dwords[(first // 4 + k) * tokens + m] = packed[k]
                with when((first % block).eq(0)):
                    block_scales[first // block * tokens + m] = peak * (1.0 / 127.0)
                with when((first % sub).eq(0)):
                    word = (total.to(f32) if float_sums else total).view(u32)
                    sub_sums[first // sub * tokens + m] = word


@kernel(group_size=_LANES)
def arrange_gpu(
    x: In[f32],
    weight: In[f32],
    rows: In[i32],
    out: Out[f32],
    *,
    columns: int,
    padded: int,
    stride: int,
    tokens: int,
    prologue: Prologue,
    choices: int = 0,
) -> None:
    """Without quantising: f32[token, columns] to f32[tile, padded, tokens], padded with zeros."""
    line = out.at(group() // tokens * (padded * tokens) + group() % tokens)
    for row in source_row(x, rows, stride, choices):
        scale = _scale(row, columns, prologue)
        for i in each(columns):
            line[i * tokens] = prologue.apply(row[i], weight[i], scale)
        for i in each(padded - columns):
            line[(i + columns) * tokens] = zeros(f32)


def _scale(row: Pointer[DType], columns: int, prologue: Prologue) -> Value | None:
    """The prologue's factor of the row, in every lane."""
    if prologue.rms_epsilon is None:
        return None
    total = variable(zeros(f32, target().lanes))
    for i in each(columns):
        total.value = fma(row[i], row[i], total.value)
    return rsqrt(group_sum(total.value) / columns + prologue.rms_epsilon)


def _over(lanes: int, x: Value, join: Callable[[Value, Value], Value]) -> Value:
    """`join` over groups of so many neighbouring lanes, a power of two."""
    mask = 1
    while mask < lanes:
        x = join(x, shuffle_xor(x, mask))
        mask *= 2
    return x
