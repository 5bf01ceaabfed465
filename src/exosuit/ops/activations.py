"""Activations made ready for `matmul`: optionally normalised, then quantised or only rearranged.

A workgroup takes one token. Outputs are interleaved by tile, as the matrix kernels walk them.
Quantisation is symmetric to 127 steps per block, round to nearest even, as in ggml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Value,
    absolute,
    f32,
    fma,
    group,
    i8,
    i16,
    i32,
    i64,
    kernel,
    loop,
    maximum,
    rint,
    rsqrt,
    select,
    u32,
    variable,
    when,
    zeros,
)

_STEP = 8


@dataclass(frozen=True)
class Prologue:
    """What is done to a row first: nothing, or RMS normalisation with a weight."""

    rms_epsilon: float | None = None

    def scale(self, x: Pointer[DType], columns: int) -> Value | None:
        """The row's factor, a scalar f32; None for "as it is"."""
        if self.rms_epsilon is None:
            return None
        whole = columns // _STEP * _STEP
        total = variable(zeros(f32, _STEP))
        for i in loop(whole, step=_STEP):
            v = x.load(i, _STEP)
            total.value = fma(v, v, total.value)
        squares = total.value.reduce("add")
        for i in range(whole, columns):
            squares = fma(x[i], x[i], squares)
        return rsqrt(squares / columns + self.rms_epsilon)

    def apply(self, x: Value, weight: Value, scale: Value | None) -> Value:
        return x if scale is None else x * scale * weight

    def step(
        self, x: Pointer[DType], weight: Pointer[DType], first: Value, scale: Value | None
    ) -> Value:
        """f32[_STEP]: the elements from `first` on."""
        return self.apply(x.load(first, _STEP), weight.load(first, _STEP), scale)


@kernel
def quantise(
    x: In[f32],
    weight: In[f32],
    rows: In[i32],
    quants: Out[i8],
    scales: Out[f32],
    sums: Out[i16],
    *,
    columns: int,
    stride: int,
    block: int,
    sub: int,
    tokens: int,
    prologue: Prologue,
    choices: int = 0,
    scaled_sums: bool = False,
) -> None:
    """Quantise f32[token, columns] (rows `stride` apart) to signed bytes, one scale per `block`.

    weight  f32[columns] of the prologue, or unused
    rows    with `choices` of each token: which choice each line takes (see `ops.routing`), -1 to
            leave it alone; unused otherwise
    quants, scales, sums  as `ops.matmul` describes, for tiles of `tokens`; with `scaled_sums` the
            sums are f32
    """
    for row in source_row(x, rows, stride, choices):
        tile, m = group() // tokens, group() % tokens
        blocks, subs = columns // block, block // sub
        scale = prologue.scale(row, columns)
        dwords = quants.view(u32).at(tile * (columns // 4 * tokens) + m)
        block_scales = scales.at(tile * (blocks * tokens) + m)
        pairs = 2 if subs > 1 else 1
        block_sums = sums.view(f32) if scaled_sums else sums
        block_sums = block_sums.at(tile * (blocks * subs * tokens) + m * pairs)
        for b in loop(blocks):
            # Compared as integers, whose order is that of positive floats, and a NaN the largest:
            # it makes the block's scale a NaN instead of being lost.
            largest = variable(zeros(i32, _STEP))
            for i in loop(block, step=_STEP):
                step = prologue.step(row, weight, b * block + i, scale)
                largest.value = maximum(largest.value, absolute(step).view(i32))
            peak = largest.value.reduce("max").view(f32)
            inverse = select(peak.eq(0.0), 0.0, 127.0 / peak)
            block_scale = peak * (1.0 / 127.0)
            block_scales[b * tokens] = block_scale
            for s in range(subs):
                total = zeros(i32, _STEP)
                for i in range(s * sub, (s + 1) * sub, _STEP):
                    step = prologue.step(row, weight, b * block + i, scale)
                    whole = rint(step * inverse).to(i32)
                    total = total + whole
                    packed = whole.to(i8).view(u32)
                    place = b * (block // 4) + i // 4
                    dwords[place * tokens] = packed[0]
                    dwords[(place + 1) * tokens] = packed[1]
                place = (b * (subs // pairs) + s // pairs) * (tokens * pairs) + s % pairs
                summed = total.reduce("add")
                block_sums[place] = summed.to(f32) * block_scale if scaled_sums else summed.to(i16)


@kernel
def arrange(
    x: In[f32],
    weight: In[f32],
    rows: In[i32],
    out: Out[f32],
    *,
    columns: int,
    stride: int,
    tokens: int,
    prologue: Prologue,
    choices: int = 0,
) -> None:
    """The same without quantising: f32[token, columns] to f32[tile, columns, tokens]."""
    line = out.at(group() // tokens * (columns * tokens) + group() % tokens)
    for row in source_row(x, rows, stride, choices):
        scale = prologue.scale(row, columns)
        whole = columns // _STEP * _STEP
        for i in loop(whole, step=_STEP):
            value = prologue.step(row, weight, i, scale)
            if tokens == 1:
                line.store(value, i)
            else:
                for lane in range(_STEP):
                    line[(i + lane) * tokens] = value[lane]
        for i in range(whole, columns):
            line[i * tokens] = prologue.apply(row[i], weight[i], scale)


def source_row(
    x: Pointer[DType], rows: Pointer[DType], stride: int, choices: int
) -> Iterator[Pointer[DType]]:
    """The row that this workgroup takes; nothing where it has none."""
    if not choices:
        yield x.at(group().to(i64) * stride)
        return
    choice = rows[group()]
    with when(choice >= 0):
        yield x.at((choice // choices).to(i64) * stride)


def quantise_reference(
    x: NDArray[np.float32], block: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """f32[tokens, k] to quants i8[tokens, k] and scales f32[tokens, k / block]."""
    blocks = x.reshape(x.shape[0], -1, block)
    peak = np.abs(blocks).max(-1)
    with np.errstate(divide="ignore"):
        inverse = np.where(peak == 0, 0, np.float32(127) / peak)
    quants = np.rint(blocks * inverse[..., None].astype(np.float32)).astype(np.int8)
    return quants.reshape(x.shape), (peak * np.float32(1 / 127)).astype(np.float32)


def tile_order(values: NDArray[np.generic], tokens: int, run: int) -> NDArray[np.generic]:
    """[token, n] to [tile, n / run, token in tile, run], tokens padded with zeros."""
    count, width = values.shape
    padded = np.zeros((-(-count // tokens) * tokens, width), values.dtype)
    padded[:count] = values
    return padded.reshape(-1, tokens, width // run, run).transpose(0, 2, 1, 3).copy()
