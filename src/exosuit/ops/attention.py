"""Attention over paged keys and values: one kernel from a single token to a full prefill.

A workgroup takes one tile of one sequence's tokens and one kv head; its rows are the tile's tokens
times the query heads that share the kv head. It walks the pages that any row may see, and for each:

    scores   rows x 64 = queries x keys           lanes are the page's tokens
    softmax  running maximum and sum of each row, scores become weights
    output   rows x head_dim = weights x values   lanes are dimensions

Nothing is reduced across lanes but a row's maximum, once a page, and its sum, once. While one half
of a page is worked on, the next is asked for. A decode step may have too few workgroups for all
threads: then the pages are dealt out to `splits` workgroups, and `combine` joins their results.

This is the shape for CPUs, whose vectors are explicit in `attention_tile`.
Source: online softmax (arXiv 1805.02867), FlashAttention-2 (arXiv 2307.08691).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    In,
    Out,
    Scalar,
    constant,
    exp,
    f16,
    f32,
    fma,
    group,
    i32,
    i64,
    kernel,
    loop,
    maximum,
    minimum,
    u8,
    variable,
    when,
    zeros,
)
from exosuit.ops.attention_tile import LOWEST, Attention, Tile
from exosuit.ops.cache import LANES, PAGE


def splits_for(tiles: int, kv_heads: int, threads: int) -> int:
    """The fewest ways to split pages that keep every thread busy nearly to the end.

    A split costs a second launch, about 2 microseconds a layer, so there is none without need.
    """

    def busy(splits: int) -> float:
        groups = tiles * kv_heads * splits
        return groups / (-(-groups // threads) * threads)

    return next(splits for splits in range(1, 17) if busy(splits) > 0.85 or splits == 16)


@kernel
def attention(
    queries: In[f32],
    keys: In[u8],
    values: In[u8],
    key_scales: In[f16],
    value_scales: In[f16],
    page_table: In[i32],
    positions: In[i32],
    tiles: In[i32],
    out: Out[f32],
    page_columns: Scalar[i32],
    tile_count: Scalar[i32],
    *,
    shape: Attention,
) -> None:
    """Causal attention by position. `kv_heads * tile_count * splits` groups.

    queries     f32[T, query_heads * head_dim], already times the softmax scale
    keys, values, scales  the layer's cache (see `cache.py`); scales are unused for f16
    page_table  i32[slots, page_columns]
    positions   i32[T], rising within a tile
    tiles       i32[tile_count, 4]: first token, tokens (0: nothing to do), slot, 0
    out         f32[T, shape.out_width]
    """
    inner = tile_count * shape.splits
    kv_head, rest = group() // inner, group() % inner
    tile = tiles.at(rest // shape.splits * 4)
    count = tile.load(1)

    def attend(shape: Attention) -> None:
        work = Tile(shape, tile.load(0), count, kv_head)
        work.take_queries(queries)
        slot = page_table.at(tile.load(2) * page_columns)
        last = positions[work.first + count - 1]
        start = rest % shape.splits
        if shape.window:
            start = start + maximum(positions[work.first] - (shape.window - 1), 0) // PAGE
        end = last // PAGE
        for page_index in loop(end + 1, start=start, step=shape.splits):
            page, following = slot[page_index], slot[minimum(page_index + shape.splits, end)]
            origin = page_index * PAGE
            seen = minimum(last - origin + 1, PAGE)
            key_head = shape.cache.head(keys, page, kv_head)
            value_head = shape.cache.head(values, page, kv_head)
            work.ahead = value_head
            work.score(key_head, shape.cache.head_scales(key_scales, page, kv_head), seen)
            work.soften(positions, origin)
            work.ahead = shape.cache.head(keys, following, kv_head)
            work.gather(value_head, shape.cache.head_scales(value_scales, page, kv_head), seen)
        if shape.splits == 1:
            work.store(out)
        else:
            work.store_partial(out, rest % shape.splits)

    # A single token among longer tiles is not made to pay for their shape.
    with when(count.eq(1)):
        attend(replace(shape, tile_tokens=1))
    if shape.tile_tokens > 1:
        with when(count > 1):
            attend(shape)


@kernel
def combine(partials: In[f32], slots: In[i32], out: Out[f32], *, shape: Attention) -> None:
    """Join what the splits of `attention` found. `T * query_heads` groups.

    partials f32[T, shape.partial_width]    slots i32[T], -1 for padding
    out      f32[T, query_heads * head_dim]
    """
    size = shape.cache.head_dim
    with when(slots[group() // shape.query_heads] >= 0):
        parts = partials.at(group().to(i64) * (shape.splits * shape.part))
        peak = variable(constant(f32, LOWEST))
        for split in loop(shape.splits):
            peak.value = maximum(peak.value, parts.at(split * shape.part).load(size))
        total = variable(zeros(f32))
        sums = [variable(zeros(f32, LANES)) for _ in range(0, size, LANES)]
        for split in loop(shape.splits):
            part = parts.at(split * shape.part)
            weight = exp(part.load(size) - peak.value)
            total.value = fma(weight, part.load(size + 1), total.value)
            for n, value in enumerate(sums):
                value.value = fma(weight, part.load(n * LANES, LANES), value.value)
        factor = 1.0 / total.value
        line = out.at(group().to(i64) * size)
        for n, value in enumerate(sums):
            line.store(value.value * factor, n * LANES)


def attention_reference(
    queries: NDArray[Any],
    keys: NDArray[np.float64],
    values: NDArray[np.float64],
    page_table: NDArray[Any],
    positions: NDArray[Any],
    slots: NDArray[Any],
    shape: Attention,
) -> NDArray[np.float64]:
    """float64 [T, query_heads * head_dim]; rows of slot -1 are 0.

    keys, values  decoded pages [page, kv head, 64, head_dim]
    """
    size, heads = shape.cache.head_dim, shape.query_heads
    out = np.zeros((len(positions), heads, size))
    for token, (own, slot) in enumerate(zip(positions, slots, strict=True)):
        if slot < 0:
            continue
        first = max(0, own - shape.window + 1) if shape.window else 0
        seen = np.arange(int(first), int(own) + 1)
        pages, rows = page_table[slot, seen // PAGE], seen % PAGE
        for head in range(heads):
            query = queries[token].reshape(heads, size)[head].astype(np.float64)
            score = keys[pages, head // shape.repeat, rows] @ query
            if shape.softcap:
                score = shape.softcap * np.tanh(score / shape.softcap)
            weight = np.exp(score - score.max())
            out[token, head] = weight @ values[pages, head // shape.repeat, rows] / weight.sum()
    return out.reshape(len(positions), heads * size)
