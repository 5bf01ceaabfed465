"""Inverse frequencies against formulas written out, rotation and cache writes against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exosuit.errors import UnsupportedModel
from exosuit.ops.cache import PAGE, CacheFormat
from exosuit.ops.rotary import (
    Heads,
    RopeOptions,
    frequencies,
    rope_and_cache,
    rope_angles,
    rope_angles_reference,
    rope_reference,
)

RNG = np.random.default_rng(5)


def test_plain_and_linear_frequencies():
    plain, magnitude = frequencies(RopeOptions(10000.0, 8))
    np.testing.assert_allclose(plain, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
    assert magnitude == 1.0
    linear, _ = frequencies(RopeOptions(10000.0, 8, "linear", factor=4.0))
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-6)


def test_factors_divide():
    factors = np.array([1, 2, 4, 8], np.float32)
    found, _ = frequencies(RopeOptions(10000.0, 8), factors)
    np.testing.assert_allclose(found, [1.0, 0.05, 0.0025, 0.000125], rtol=1e-6)


def test_yarn_as_ggml_computes_it():
    """A transcription of the loop of ggml's rope cache, pair by pair, at position 1."""
    base, dims, factor, context = 1e6, 128, 4.0, 32768
    options = RopeOptions(base, dims, "yarn", factor, context, magnitude=0.9)
    found, magnitude = frequencies(options)
    ends = [
        dims * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (32.0, 1.0)
    ]
    low, high = max(0, math.floor(ends[0])), min(dims - 1, math.ceil(ends[1]))
    for pair in range(dims // 2):
        extrapolated = base ** (-2 * pair / dims)
        ramp = 1 - min(1, max(0, (pair - low) / max(0.001, high - low)))
        theta = extrapolated / factor * (1 - ramp) + extrapolated * ramp
        assert found[pair] == pytest.approx(theta, rel=1e-6)
    assert magnitude == pytest.approx(0.9 * (1 + 0.1 * math.log(4)))
    assert found[0] == 1.0
    assert found[-1] == pytest.approx(base ** (-126 / 128) / 4)


@pytest.mark.parametrize("dims", [8, 24, 64])
def test_angles(run, check, dims):
    positions = np.array([0, 1, 63, 4097, 131071], np.int32)
    inverse, _ = frequencies(RopeOptions(10000.0, dims))
    table = np.zeros((5, dims // 2, 2), np.float32)
    run(rope_angles, 5, positions, inverse, table, 1.25, dims=dims)
    expected = rope_angles_reference(positions, inverse, 1.25)
    # An angle of 1e5 in f32 is itself off by 4e-3.
    check(table[:4], expected[:4], 5e-4)
    check(table, expected, 2e-2)


def _heads(kind="f16", query_heads=4, kv_heads=2, head_dim=64, **options):
    defaults = {"rope_dims": head_dim, "pairing": "normal", "query_scale": 0.125}
    cache = CacheFormat(kind, kv_heads, head_dim)
    return Heads(cache, query_heads, **(defaults | options))


def _project(run, heads, stride_extra=0):
    """Six tokens of two slots, one of padding; everything that the kernel wrote."""
    cache, columns, pages = heads.cache, 3, 6
    positions = np.array([0, 63, 64, 150, 7, 65], np.int32)
    slots = np.array([0, 0, 0, 1, -1, 1], np.int32)
    page_table = RNG.permutation(pages).astype(np.int32).reshape(2, columns)
    width = heads.query_width + 2 * heads.key_width
    qkv = RNG.normal(size=(6, width + stride_extra)).astype(np.float32)
    inverse, _ = frequencies(RopeOptions(10000.0, max(heads.rope_dims, 2)))
    table = rope_angles_reference(positions, inverse, 1.0).astype(np.float32)
    weights = RNG.uniform(0.5, 2, (2, cache.head_dim)).astype(np.float32)
    queries = np.full((6, heads.query_width), np.nan, np.float32)
    keys = np.zeros(pages * cache.page_bytes, np.uint8)
    values = np.zeros_like(keys)
    key_scales = np.zeros(max(pages * cache.scale_page_bytes // 2, 1), np.float16)
    value_scales = np.zeros_like(key_scales)
    run(
        rope_and_cache, 6 * cache.kv_heads, qkv, table, positions, slots, page_table, weights[0],
        weights[1], queries, keys, values, key_scales, value_scales, columns,
        heads=heads, stride=width + stride_extra,
    )  # fmt: skip
    split = np.split(qkv[:, :width], [heads.query_width, heads.query_width + heads.key_width], 1)
    q, k, v = (part.reshape(6, -1, cache.head_dim) for part in split)
    expected = (
        rope_reference(q, table, heads, weights[0]) * heads.query_scale,
        rope_reference(k, table, heads, weights[1]),
        v.astype(np.float64),
    )
    found = (
        queries.reshape(6, -1, cache.head_dim),
        cache.decode_keys(keys, key_scales),
        cache.decode_values(values, value_scales),
    )
    places = [
        (page_table[slot, p // PAGE], p % PAGE) if slot >= 0 else None
        for p, slot in zip(positions, slots, strict=True)
    ]
    return expected, found, places


CASES = [
    {},
    {"pairing": "halves"},
    {"head_dim": 128, "rope_dims": 96, "pairing": "halves"},
    {"head_dim": 80, "rope_dims": 32, "pairing": "normal"},
    {"head_dim": 40, "pairing": "halves"},
    {"head_dim": 8},
    {"head_dim": 8, "pairing": "halves"},
    {"rope_dims": 0},
    {"head_dim": 256, "query_heads": 4, "kv_heads": 1, "pairing": "halves", "norm_eps": 1e-6},
    {"query_heads": 9, "kv_heads": 3, "norm_eps": 1e-5},
]


@pytest.mark.parametrize("kind", ["f16", "q8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rotation_and_cache(run, check, kind, case):
    heads = _heads(kind, **case)
    expected, found, places = _project(run, heads, stride_extra=8)
    real = [t for t, place in enumerate(places) if place is not None]
    check(found[0][real], expected[0][real], 1e-6)
    assert np.isnan(found[0][4]).all(), "a padding token was written"
    tolerance = 5e-4 if kind == "f16" else 6e-3
    for which in (1, 2):
        for token in real:
            page, row = places[token]
            check(found[which][page, :, row], expected[which][token], tolerance)
        touched = np.zeros(found[which].shape[:3:2], bool)
        for token in real:
            touched[places[token]] = True
        assert not found[which].swapaxes(1, 2)[~touched].any(), "wrote beside the tokens"


def test_values_beyond_f16_are_stored_as_the_largest(run):
    heads = _heads()
    qkv = np.full((1, 512), 1e9, np.float32)
    qkv[0, 300] = np.nan
    zeros = np.zeros(1, np.int32)
    keys, values = np.zeros((2, heads.cache.page_bytes), np.uint8)
    table = np.zeros((1, 32, 2), np.float32)
    table[..., 0] = 1
    run(
        rope_and_cache, 2, qkv, table, zeros, zeros, zeros, zeros, zeros,
        np.zeros(256, np.float32), keys, values, keys, values, 1, heads=heads, stride=512,
    )  # fmt: skip
    assert np.isfinite(keys.view(np.float16)).all()
    assert values.view(np.float16).max() == 65504


@pytest.mark.parametrize("head_dim", [0, 12, 264])
def test_a_head_of_another_size_is_refused(head_dim):
    with pytest.raises(UnsupportedModel, match=f"{head_dim} dimensions"):
        CacheFormat("f16", 1, head_dim)
