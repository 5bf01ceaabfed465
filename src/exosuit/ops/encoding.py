"""What only encoders do: attention in both directions, and pooling tokens into one vector.

The sequences of a step stand side by side, each a span of tokens; a token attends to its whole span
and to nothing else. Nothing is cached: an encoder sees each text once and as a whole.

Keys are turned to [head, dimension, token] first, so that lanes take neighbouring tokens; then a
workgroup takes one token and one head. Written with `each`: one shape for CPUs and GPUs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    In,
    Out,
    Scalar,
    barrier,
    constant,
    each,
    exp,
    f32,
    fma,
    group,
    group_max,
    group_sum,
    i32,
    i64,
    kernel,
    loop,
    maximum,
    shared,
    target,
    variable,
    when,
    zeros,
)

_LOWEST = -3.0e38


@kernel
def turn_keys(qkv: In[f32], keys: Out[f32], tokens: Scalar[i32], *, width: int) -> None:
    """`keys[k, token] = qkv[token, width + k]`. `width` groups.

    qkv f32[tokens, 3 * width]    keys f32[width, tokens]
    """
    line = keys.at(group().to(i64) * tokens.to(i64))
    column = qkv.at(group() + width)
    for i in each(tokens):
        line[i] = column[i * (3 * width)]


@kernel
def attend_span(
    qkv: In[f32],
    keys: In[f32],
    slots: In[i32],
    spans: In[i32],
    out: Out[f32],
    tokens: Scalar[i32],
    *,
    heads: int,
    head_dim: int,
    longest: int,
) -> None:
    """Each token over all tokens of its span. `tokens * heads` groups.

    qkv      f32[tokens, 3 * heads * head_dim]: queries, keys, values
    keys     f32[heads * head_dim, tokens], see `turn_keys`
    slots    i32[tokens]: which span a token is of; -1 for padding, whose output is left alone
    spans    i32[spans, 4]: first token, tokens (at most `longest`), unused, unused
    out      f32[tokens, heads * head_dim]
    """
    width = heads * head_dim
    token, head = group() // heads, group() % heads
    slot = slots[token]
    with when(slot >= 0):
        first, count = spans[slot * 4], spans[slot * 4 + 1]
        query = qkv.at(token.to(i64) * (3 * width)).at(head * head_dim)
        key = keys.at((head * head_dim).to(i64) * tokens.to(i64)).at(first)
        weights = shared(f32, longest)
        lanes = target().lanes
        peak = variable(constant(f32, _LOWEST, lanes))
        for i in each(count):
            score = variable(zeros(f32, i.lanes))
            for d in loop(head_dim):
                score.value = fma(key[d * tokens + i], query[d], score.value)
            scaled = score.value * head_dim**-0.5
            weights[i] = scaled
            peak.value = maximum(peak.value, scaled)
        highest = group_max(peak.value)
        total = variable(zeros(f32, lanes))
        for i in each(count):
            weight = exp(weights[i] - highest)
            weights[i] = weight
            total.value += weight
        factor = 1.0 / group_sum(total.value)
        barrier()
        value = qkv.at(first.to(i64) * (3 * width)).at(head * head_dim + 2 * width)
        line = out.at(token.to(i64) * width).at(head * head_dim)
        for i in each(head_dim):
            mixed = variable(zeros(f32, i.lanes))
            for t in loop(count):
                mixed.value = fma(value[t * (3 * width) + i], weights[t], mixed.value)
            line[i] = mixed.value * factor


@kernel
def mean_of_span(x: In[f32], spans: In[i32], out: Out[f32], *, width: int) -> None:
    """`out[span] = mean of the span's rows of x`, f32[..., width]; one group for each span.

    An empty span leaves its row alone.
    """
    first, count = spans[group() * 4], spans[group() * 4 + 1]
    with when(count > 0):
        rows = x.at(first.to(i64) * width)
        line = out.at(group().to(i64) * width)
        factor = 1.0 / count.to(f32)
        for i in each(width):
            total = variable(zeros(f32, i.lanes))
            for t in loop(count):
                total.value += rows[t * width + i]
            line[i] = total.value * factor


def attend_span_reference(
    qkv: NDArray[Any], spans: NDArray[Any], heads: int, head_dim: int
) -> NDArray[np.float64]:
    """float64 [tokens, heads * head_dim]; rows of no span are 0."""
    out = np.zeros((len(qkv), heads, head_dim))
    parts = qkv.astype(np.float64).reshape(len(qkv), 3, heads, head_dim)
    for first, count, *_ in spans:
        q, k, v = parts[first : first + count].transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) * head_dim**-0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True, initial=_LOWEST))
        mixed = weights / weights.sum(-1, keepdims=True) @ v
        out[first : first + count] = mixed.transpose(1, 0, 2)
    return out.reshape(len(qkv), heads * head_dim)
