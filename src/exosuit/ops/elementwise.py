"""What is done to each activation by itself: sums, scales, gates, soft-capping.

A workgroup takes `CHUNK` elements; `chunks(count)` says how many workgroups an array needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    In,
    InOut,
    Out,
    Scalar,
    Value,
    each,
    f32,
    group,
    i32,
    i64,
    kernel,
    minimum,
    tanh,
)
from exosuit.ops.epilogues import ACTIVATIONS

CHUNK = 1024
"""Elements of one workgroup."""


def chunks(count: int) -> int:
    """Workgroups for `count` elements."""
    return -(-count // CHUNK)


def _mine(count: Value | int) -> Iterator[Value]:
    """The indices below `count` that are this workgroup's."""
    first = group() * CHUNK
    for i in each(minimum(count - first, CHUNK)):
        yield i + first


@kernel
def add(x: InOut[f32], delta: In[f32], count: Scalar[i32]) -> None:
    """`x += delta`; `chunks(count)` groups."""
    for i in _mine(count):
        x[i] = x[i] + delta[i]


@kernel
def scale(x: InOut[f32], factor: Scalar[f32], count: Scalar[i32]) -> None:
    """`x *= factor`; `chunks(count)` groups."""
    for i in _mine(count):
        x[i] = x[i] * factor


@kernel
def softcap(x: InOut[f32], count: Scalar[i32], *, cap: float) -> None:
    """`x = cap * tanh(x / cap)`; `chunks(count)` groups."""
    for i in _mine(count):
        x[i] = tanh(x[i] * (1 / cap)) * cap


@kernel
def activate(x: InOut[f32], count: Scalar[i32], *, activation: Literal["silu", "gelu"]) -> None:
    """`x = activation(x)`; `chunks(count)` groups. gelu is the tanh form."""
    for i in _mine(count):
        x[i] = ACTIVATIONS[activation](x[i])


@kernel
def gated(x: In[f32], out: Out[f32], *, width: int, activation: Literal["silu", "gelu"]) -> None:
    """`out = activation(gate) * value`; `T * chunks(width)` groups.

    x f32[T, 2 * width]: gates, then values    out f32[T, width]    gelu is the tanh form
    """
    token, part = group() // chunks(width), group() % chunks(width)
    gates = x.at(token.to(i64) * (2 * width))
    line = out.at(token.to(i64) * width)
    first = part * CHUNK
    for i in each(minimum(width - first, CHUNK)):
        place = i + first
        line[place] = ACTIVATIONS[activation](gates[place]) * gates[place + width]


def softcap_reference(x: NDArray[Any], cap: float) -> NDArray[np.float64]:
    return cap * np.tanh(x.astype(np.float64) / cap)


def gated_reference(x: NDArray[Any], activation: Literal["silu", "gelu"]) -> NDArray[np.float64]:
    gate, value = np.split(x.astype(np.float64), 2, axis=-1)
    if activation == "silu":
        return gate / (1 + np.exp(-gate)) * value
    inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    return gate * 0.5 * (1 + np.tanh(inner)) * value
