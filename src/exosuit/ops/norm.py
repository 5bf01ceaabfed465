"""RMS norm and layer norm of rows of activations, alone or right after a residual is added.

One workgroup per token. Weights are as the model file has them: where a family of models adds 1 to
its norm weights, its GGUF files already hold the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    DType,
    In,
    InOut,
    Out,
    Pointer,
    Value,
    each,
    f32,
    group,
    group_sum,
    i64,
    kernel,
    rsqrt,
    target,
    variable,
    zeros,
)


@kernel
def rms_norm(x: In[f32], weight: In[f32], out: Out[f32], *, width: int, eps: float) -> None:
    """`out = x / sqrt(mean(x**2) + eps) * weight`; x and out f32[T, width]. T groups."""
    start = group().to(i64) * width
    _rms_norm(x.at(start), weight, out.at(start), width, eps)


@kernel
def add_rms_norm(
    x: InOut[f32], delta: In[f32], weight: In[f32], out: Out[f32], *, width: int, eps: float
) -> None:
    """`x += delta`, then `out = rms_norm(x)`; all f32[T, width]. T groups."""
    start = group().to(i64) * width
    row, change = x.at(start), delta.at(start)
    for i in each(width):
        row[i] = row[i] + change[i]
    _rms_norm(row, weight, out.at(start), width, eps)


@kernel
def layer_norm(
    x: In[f32], weight: In[f32], bias: In[f32], out: Out[f32], *, width: int, eps: float
) -> None:
    """`out = (x - mean) / sqrt(variance + eps) * weight + bias`; f32[T, width]. T groups."""
    start = group().to(i64) * width
    row, result = x.at(start), out.at(start)
    mean = _mean(lambda i: row[i], width)
    variance = _mean(lambda i: (row[i] - mean) * (row[i] - mean), width)
    factor = rsqrt(variance + eps)
    for i in each(width):
        result[i] = (row[i] - mean) * factor * weight[i] + bias[i]


def _rms_norm(
    row: Pointer[DType], weight: Pointer[DType], out: Pointer[DType], width: int, eps: float
) -> None:
    factor = rsqrt(_mean(lambda i: row[i] * row[i], width) + eps)
    for i in each(width):
        out[i] = row[i] * factor * weight[i]


def _mean(term: Callable[[Value], Value], width: int) -> Value:
    """The mean of `term(i)` over a row; surplus lanes contribute nothing."""
    total = variable(zeros(f32, target().lanes))
    for i in each(width):
        total.value += term(i)
    return group_sum(total.value) * (1 / width)


def rms_norm_reference(x: NDArray[Any], weight: NDArray[Any], eps: float) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm_reference(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], eps: float
) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias
