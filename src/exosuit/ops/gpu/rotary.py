"""Queries, keys and values on a GPU: normalised, turned, and the latter two put into the cache.

A workgroup takes one kv head of one token. Its waves share the heads: the query heads that belong
to the kv head, its key, its value; a lane holds one dimension of every 32.
"""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Scalar,
    Value,
    absolute,
    constant,
    f16,
    f32,
    fma,
    group,
    i8,
    i32,
    i64,
    kernel,
    loop,
    masked,
    maximum,
    minimum,
    rint,
    rsqrt,
    select,
    shared,
    u8,
    variable,
    wave,
    wave_barrier,
    wave_lane,
    wave_reduce,
    when,
    zeros,
)
from exosuit.ops.cache import LARGEST_F16, PAGE, CacheFormat
from exosuit.ops.rotary import Heads

_WAVES = 4
_WAVE = 32


@kernel(group_size=_WAVE * _WAVES)
def rope_and_cache_gpu(
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
    """As `ops.rotary.rope_and_cache`. `T * kv_heads` groups."""
    cache, size, repeat = heads.cache, heads.cache.head_dim, heads.repeat
    token, kv_head = group() // cache.kv_heads, group() % cache.kv_heads
    slot = slots[token]
    staged = shared(f32, _WAVES * size).at(wave() * size)
    with when(slot >= 0):
        line = qkv.at(token.to(i64) * stride)
        turns = table.at(token.to(i64) * heads.rope_dims)
        out = queries.at(token.to(i64) * heads.query_width)
        position = positions[token]
        page = page_table[slot * page_columns + position // PAGE]
        row = position % PAGE
        for job in loop(repeat + 2, start=wave(), step=_WAVES):
            with when(job < repeat):
                start = (kv_head * repeat + job) * size
                _turn(line.at(start), query_weight, turns, heads, staged)
                for d in _dimensions(size):
                    out.at(start)[d] = staged[d] * heads.query_scale
            with when(job.eq(repeat)):
                start = kv_head * size + heads.query_width
                _turn(line.at(start), key_weight, turns, heads, staged)
                place = cache.head(keys, page, kv_head).at(row)
                scales = cache.head_scales(key_scales, page, kv_head).at(row)
                _encode(cache, staged, place, PAGE, scales, PAGE)
            with when(job.eq(repeat + 1)):
                start = kv_head * size + (heads.query_width + heads.key_width)
                for d in _dimensions(size):
                    staged[d] = line.at(start)[d]
                wave_barrier()
                place = cache.head(values, page, kv_head).at(row * size)
                scales = cache.head_scales(value_scales, page, kv_head).at(row * cache.groups)
                _encode(cache, staged, place, 1, scales, 1)
            wave_barrier()


def _dimensions(size: int, first: int = 0) -> Iterator[Value]:
    """This lane's dimensions from `first` below `size`, one by one."""
    for start in range(first, size, _WAVE):
        d = wave_lane() + start
        with masked(d < size if start + _WAVE > size else None):
            yield d


def _turn(
    head: Pointer[DType],
    weight: Pointer[DType],
    turns: Pointer[DType],
    heads: Heads,
    staged: Pointer[DType],
) -> None:
    """The head, normalised and turned, into the wave's shared memory."""
    size, dims = heads.cache.head_dim, heads.rope_dims
    factor: Value | None = None
    if heads.norm_eps is not None:
        squares = variable(zeros(f32))
        for d in _dimensions(size):
            squares.value = fma(head[d], head[d], squares.value)
        mean = wave_reduce("add", squares.value) * (1 / size)
        factor = rsqrt(mean + heads.norm_eps)

    def element(d: Value) -> Value:
        return head[d] if factor is None else head[d] * factor * weight[d]

    for pair in _dimensions(dims // 2):
        if heads.pairing == "normal":
            first, second = pair * 2, pair * 2 + 1
        else:
            first, second = pair, pair + dims // 2
        a, b = element(first), element(second)
        cosine, sine = turns[pair * 2], turns[pair * 2 + 1]
        staged[first] = a * cosine - b * sine
        staged[second] = b * cosine + a * sine
    for d in _dimensions(size, dims):
        staged[d] = element(d)
    wave_barrier()


def _encode(
    cache: CacheFormat,
    staged: Pointer[DType],
    place: Pointer[DType],
    pitch: int,
    scales: Pointer[DType],
    scale_pitch: int,
) -> None:
    """A head out of shared memory into the cache; finite always, as `CacheFormat` says why."""
    if cache.kind == "f16":
        for d in _dimensions(cache.head_dim):
            finite = minimum(maximum(staged[d], -LARGEST_F16), LARGEST_F16)
            place[d * pitch] = finite.to(f16)
        return
    for g in range(cache.groups):
        first, last = g * cache.group, (g + 1) * cache.group
        peak = variable(zeros(f32))
        for d in _dimensions(last, first):
            peak.value = maximum(peak.value, absolute(staged[d]))
        largest = minimum(wave_reduce("max", peak.value), LARGEST_F16)
        inverse = select(largest > 0.0, constant(f32, 127.0) / largest, 0.0)
        for d in _dimensions(last, first):
            scaled = minimum(maximum(rint(staged[d] * inverse), -127.0), 127.0)
            place[d * pitch] = scaled.to(i32).to(i8)
        with when(wave_lane().eq(0)):
            scales[g * scale_pitch] = (largest * (1 / 127)).to(f16)
