"""Rotary position embedding, and the place where keys and values enter the cache.

Each pair of a head's dimensions is turned by an angle `position * inverse frequency`. The inverse
frequencies depend on the model only and are made on the host (`frequencies`); a first kernel makes
the table of cosines and sines of a step's tokens, once for all layers; a second one, per layer,
normalises and turns queries and keys, and writes keys and values into the pages of the cache.
Formulas: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), and ggml's `rope_yarn` for details.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Scalar,
    Value,
    each,
    f16,
    f32,
    group,
    i32,
    i64,
    kernel,
    loop,
    rsqrt,
    sincos,
    u8,
    vector,
    when,
)
from exosuit.ops.cache import LANES, PAGE, CacheFormat

# Inverse frequencies ----------------------------------------------------------------------------


@dataclass(frozen=True)
class RopeOptions:
    """What a model says about its rotation.

    base              the wavelengths' base (10000, 500000, ...)
    dims              dimensions of a head that are turned, from the first on; even
    scaling           "none", "linear", or "yarn"; llama3 and longrope are "none" with `factors`
    factor            by how much the context was stretched ("linear", "yarn")
    original_context  tokens before stretching ("yarn")
    beta_fast, beta_slow  turns within the original context between which yarn blends
    magnitude         further factor of sine and cosine (`rope.scaling.attn_factor`)
    """

    base: float
    dims: int
    scaling: Literal["none", "linear", "yarn"] = "none"
    factor: float = 1.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float = 1.0


def frequencies(
    options: RopeOptions, factors: NDArray[Any] | None = None
) -> tuple[NDArray[np.float32], float]:
    """Inverse frequencies f32[dims / 2], in radians per position, and the magnitude.

    factors  f32[dims / 2] divisors from the model file: `rope_freqs` of Llama 3, or the long or
             short factors of longrope
    """
    pairs = np.arange(options.dims // 2, dtype=np.float64)
    inverse = options.base ** (-2.0 * pairs / options.dims)
    if factors is not None:
        inverse = inverse / np.asarray(factors, np.float64)
    magnitude = options.magnitude
    if options.scaling == "linear":
        inverse = inverse / options.factor
    elif options.scaling == "yarn":
        low, high = _yarn_range(options)
        # 1 where a pair turns often enough to be left alone, 0 where it is interpolated.
        keep = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
        inverse = inverse * (keep + (1.0 - keep) / options.factor)
        magnitude *= 1.0 + 0.1 * math.log(options.factor)
    return inverse.astype(np.float32), magnitude


def _yarn_range(options: RopeOptions) -> tuple[float, float]:
    """The pairs that turn `beta_fast` and `beta_slow` times within the original context."""

    def pair(turns: float) -> float:
        wavelength = options.original_context / (turns * 2 * math.pi)
        return options.dims * math.log(wavelength) / (2 * math.log(options.base))

    low, high = math.floor(pair(options.beta_fast)), math.ceil(pair(options.beta_slow))
    return max(0.0, low), min(options.dims - 1.0, high)


# The table of a step ----------------------------------------------------------------------------


@kernel(group_size=32)
def rope_angles(
    positions: In[i32],
    inverse: In[f32],
    table: Out[f32],
    magnitude: Scalar[f32],
    *,
    dims: int,
) -> None:
    """Cosine and sine of every pair of every token, times the magnitude. One group per token.

    positions i32[T]    inverse f32[dims / 2]    table f32[T, dims / 2, 2]
    """
    token = group()
    position = positions[token].to(f32)
    for pair in each(dims // 2):
        sine, cosine = sincos(inverse[pair] * position)
        place = (pair + token * (dims // 2)) * 2
        table[place] = cosine * magnitude
        table[place + 1] = sine * magnitude


def rope_angles_reference(
    positions: NDArray[Any], inverse: NDArray[Any], magnitude: float
) -> NDArray[np.float64]:
    """float64 [T, dims / 2, 2]"""
    angle = positions[:, None].astype(np.float64) * inverse.astype(np.float64)
    return magnitude * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


# Queries, keys, values --------------------------------------------------------------------------


@dataclass(frozen=True)
class Heads:
    """How a layer's projected queries, keys and values are treated.

    query_heads  a multiple of `cache.kv_heads`
    rope_dims    dimensions that are turned, a multiple of 8; 0 for none
    pairing      "normal": neighbours form a pair (llama); "halves": `i` and `i + rope_dims / 2`
    query_scale  factor of the turned queries, the softmax scale
    norm_eps     epsilon of an RMS norm of each query and key head before turning; None for none
    """

    cache: CacheFormat
    query_heads: int
    rope_dims: int
    pairing: Literal["normal", "halves"]
    query_scale: float
    norm_eps: float | None = None

    @property
    def repeat(self) -> int:
        """Query heads for each kv head."""
        return self.query_heads // self.cache.kv_heads

    @property
    def query_width(self) -> int:
        return self.query_heads * self.cache.head_dim

    @property
    def key_width(self) -> int:
        return self.cache.kv_heads * self.cache.head_dim


@kernel
def rope_and_cache(
    qkv: In[f32],
    table: In[f32],
    positions: In[i32],
    slots: In[i32],
    page_table: In[i32],
    query_weight: In[f32],
    key_weight: In[f32],
    queries: Out[f32],
    keys: Out[u8],
    values: Out[u8],
    key_scales: Out[f16],
    value_scales: Out[f16],
    page_columns: Scalar[i32],
    *,
    heads: Heads,
    stride: int,
) -> None:
    """Turn queries into `queries`, keys and values into the cache. `T * kv_heads` groups.

    qkv         f32[T, stride]: query heads, key heads, value heads
    table       f32[T, rope_dims / 2, 2] of `rope_angles`
    slots       i32[T]; tokens of slot -1 are padding and nothing is written for them
    page_table  i32[slots, page_columns]
    weights     f32[head_dim] of the head norms, unused without `norm_eps`
    queries     f32[T, query_heads * head_dim]
    scales      unused for an f16 cache
    """
    cache, size = heads.cache, heads.cache.head_dim
    token, kv_head = group() // cache.kv_heads, group() % cache.kv_heads
    slot = slots[token]
    with when(slot >= 0):
        line = qkv.at(token.to(i64) * stride)
        turns = table.at(token.to(i64) * heads.rope_dims)
        out = queries.at(token.to(i64) * heads.query_width)
        for k in loop(heads.repeat):
            start = (kv_head * heads.repeat + k) * size
            query = _turned(
                _normed(_parts(line.at(start), size), query_weight, heads), turns, heads
            )
            for n, part in enumerate(query):
                out.at(start).store(part * heads.query_scale, n * LANES)
        position = positions[token]
        page = page_table[slot * page_columns + position // PAGE]
        row = position % PAGE
        source = line.at(heads.query_width + kv_head * size)
        key = _turned(_normed(_parts(source, size), key_weight, heads), turns, heads)
        value = _parts(source.at(heads.key_width), size)
        cache.write_key(
            cache.head(keys, page, kv_head), cache.head_scales(key_scales, page, kv_head), row, key
        )
        cache.write_value(
            cache.head(values, page, kv_head),
            cache.head_scales(value_scales, page, kv_head),
            row,
            value,
        )


def _parts(head: Pointer[DType], size: int) -> list[Value]:
    return [head.load(n, LANES) for n in range(0, size, LANES)]


def _normed(parts: list[Value], weight: Pointer[DType], heads: Heads) -> list[Value]:
    if heads.norm_eps is None:
        return parts
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = total + part * part
    mean = total.reduce("add") * (1 / heads.cache.head_dim)
    factor = rsqrt(mean + heads.norm_eps)
    return [part * factor * weight.load(n * LANES, LANES) for n, part in enumerate(parts)]


def _turned(parts: list[Value], turns: Pointer[DType], heads: Heads) -> list[Value]:
    if heads.pairing == "normal":
        return _turned_neighbours(parts, turns, heads.rope_dims)
    return _turned_halves(parts, turns, heads.rope_dims)


def _turned_neighbours(parts: list[Value], turns: Pointer[DType], dims: int) -> list[Value]:
    signs = vector(i32, [-1, 1] * (LANES // 2)).to(f32)
    turned: list[Value] = []
    for n, part in enumerate(parts[: dims // LANES]):
        angles = turns.load(n * LANES, LANES)
        cosine = angles.shuffle([lane & ~1 for lane in range(LANES)])
        sine = angles.shuffle([lane | 1 for lane in range(LANES)])
        partner = part.shuffle([lane ^ 1 for lane in range(LANES)])
        turned.append(part * cosine + partner * (sine * signs))
    return turned + parts[dims // LANES :]


def _turned_halves(parts: list[Value], turns: Pointer[DType], dims: int) -> list[Value]:
    # With an odd number of vectors the halves meet in the middle of one: work in halves of
    # vectors and let the compiler put them together again.
    size = LANES // 2
    pieces = [part.shuffle(range(k, k + size)) for part in parts for k in (0, size)]
    half = dims // 2 // size
    for n in range(half):
        angles = turns.load(n * LANES, LANES)
        cosine, sine = angles.shuffle(range(0, LANES, 2)), angles.shuffle(range(1, LANES, 2))
        a, b = pieces[n], pieces[half + n]
        pieces[n], pieces[half + n] = a * cosine - b * sine, b * cosine + a * sine
    return [a.shuffle(range(LANES), b) for a, b in zip(pieces[0::2], pieces[1::2], strict=True)]


def rope_reference(
    x: NDArray[Any],
    table: NDArray[Any],
    heads: Heads,
    weight: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Heads [T, n, head_dim], normalised and turned by the table [T, rope_dims / 2, 2]."""
    x = x.astype(np.float64)
    if heads.norm_eps is not None:
        assert weight is not None, "a head norm has a weight"
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + heads.norm_eps) * weight
    dims = heads.rope_dims
    turned, rest = x[..., :dims], x[..., dims:]
    cosine, sine = table[:, None, :, 0], table[:, None, :, 1]
    if heads.pairing == "normal":
        a, b = turned[..., 0::2], turned[..., 1::2]
        whole = np.stack([a * cosine - b * sine, b * cosine + a * sine], -1).reshape(turned.shape)
    else:
        a, b = turned[..., : dims // 2], turned[..., dims // 2 :]
        whole = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)
    return np.concatenate([whole, rest], -1)
