"""Attention over both cache formats against float64, for every way that tiles come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from exosuit.ops.attention import (
    Attention,
    attention,
    attention_reference,
    combine,
    splits_for,
)
from exosuit.ops.cache import PAGE, CacheFormat

COLUMNS = 8


class Scene:
    """Random pages, two sequences with shuffled page tables, and tiles over their tokens."""

    def __init__(self, shape: Attention, runs: list[tuple[int, int, int]], seed: int = 0) -> None:
        """`runs` are (slot, first position, tokens); each is cut into tiles."""
        rng = np.random.default_rng(seed)
        cache = shape.cache
        pages = 2 * COLUMNS
        self.shape = shape
        self.keys, self.key_scales = _pages(rng, cache, pages)
        self.values, self.value_scales = _pages(rng, cache, pages)
        self.page_table = rng.permutation(pages).astype(np.int32).reshape(2, COLUMNS)
        positions, slots, tiles = [], [], []
        for slot, start, tokens in runs:
            for k in range(0, tokens, shape.tile_tokens):
                size = min(shape.tile_tokens, tokens - k)
                tiles.append((len(positions) + k, size, slot, 0))
            positions += range(start, start + tokens)
            slots += [slot] * tokens
        # A padding token and a tile with nothing to do.
        positions, slots, tiles = [*positions, 0], [*slots, -1], [*tiles, (0, 0, 0, 0)]
        self.positions = np.array(positions, np.int32)
        self.slots = np.array(slots, np.int32)
        self.tiles = np.array(tiles, np.int32)
        width = shape.query_heads * cache.head_dim
        scale = 1 / np.sqrt(cache.head_dim)
        self.queries = (rng.normal(size=(len(positions), width)) * 3 * scale).astype(np.float32)

    def run(self, run):
        shape = self.shape
        out = np.zeros((len(self.positions), shape.out_width), np.float32)
        run(
            attention, shape.cache.kv_heads * len(self.tiles) * shape.splits, self.queries,
            self.keys, self.values, self.key_scales, self.value_scales, self.page_table,
            self.positions, self.tiles, out, COLUMNS, len(self.tiles), shape=shape,
        )  # fmt: skip
        if shape.splits == 1:
            return out
        joined = np.zeros_like(self.queries)
        groups = len(self.positions) * shape.query_heads
        run(combine, groups, out, self.slots, joined, shape=shape)
        return joined

    def expected(self):
        cache = self.shape.cache
        return attention_reference(
            self.queries, cache.decode_keys(self.keys, self.key_scales),
            cache.decode_values(self.values, self.value_scales), self.page_table, self.positions,
            self.slots, self.shape,
        )  # fmt: skip


def _pages(rng, cache, pages):
    elements = pages * cache.kv_heads * cache.head_dim * PAGE
    if cache.kind == "f16":
        data = rng.normal(size=elements).astype(np.float16)
        return data.view(np.uint8), data[:1]
    data = rng.integers(-127, 128, elements).astype(np.int8)
    scales = rng.uniform(0.005, 0.02, elements // cache.group).astype(np.float16)
    return data.view(np.uint8), scales


def _shape(heads, kv_heads, head_dim, kind="f16", **options):
    return Attention(CacheFormat(kind, kv_heads, head_dim), heads, **options)


PREFILL = [(0, 0, 70), (1, 130, 21)]
DECODE = [(0, 300, 1), (1, 63, 1), (0, 0, 1), (1, 64, 1)]


@pytest.mark.parametrize("kind", ["f16", "q8"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 64), (9, 3, 64), (2, 1, 80), (7, 1, 128), (2, 2, 8)]
)
def test_prefill_and_decode(run, check, kind, heads, kv_heads, head_dim):
    for tile_tokens, runs in ((16, PREFILL + DECODE), (1, DECODE)):
        scene = Scene(_shape(heads, kv_heads, head_dim, kind, tile_tokens=tile_tokens), runs)
        check(scene.run(run), scene.expected(), 2e-6)


@pytest.mark.parametrize("repeat", range(1, 17))
def test_any_number_of_query_heads_share_a_kv_head(run, check, repeat):
    scene = Scene(_shape(repeat, 1, 16, tile_tokens=3), [(0, 60, 8)])
    check(scene.run(run), scene.expected(), 2e-6)


@pytest.mark.parametrize("kind", ["f16", "q8"])
def test_the_largest_head(run, check, kind):
    scene = Scene(_shape(4, 1, 256, kind, tile_tokens=4), [(0, 190, 5)])
    check(scene.run(run), scene.expected(), 2e-6)


@pytest.mark.parametrize("window", [1, 64, 100])
@pytest.mark.parametrize("tile_tokens", [1, 16])
def test_a_window_hides_what_is_older_and_skips_its_pages(run, check, window, tile_tokens):
    runs = PREFILL if tile_tokens > 1 else DECODE
    scene = Scene(_shape(4, 2, 64, tile_tokens=tile_tokens, window=window), runs)
    check(scene.run(run), scene.expected(), 2e-6)


def test_pages_outside_of_the_window_are_not_read(run):
    scene = Scene(_shape(2, 1, 64, tile_tokens=1, window=65), [(0, 400, 1)])
    scene.page_table[0, : (400 - 64) // PAGE] = 1 << 24  # reading there would crash
    assert np.isfinite(scene.run(run)[0]).all()


def test_softcap(run, check):
    scene = Scene(_shape(4, 2, 64, tile_tokens=16, softcap=2.0), PREFILL)
    check(scene.run(run), scene.expected(), 2e-6)
    uncapped = replace(scene.shape, softcap=0.0)
    assert np.abs(Scene(uncapped, PREFILL).expected() - scene.expected()).max() > 0.01


@pytest.mark.parametrize("splits", [2, 3, 8])
@pytest.mark.parametrize("window", [0, 70])
def test_split_pages_are_joined(run, check, splits, window):
    shape = _shape(4, 1, 64, tile_tokens=1, splits=splits, window=window)
    scene = Scene(shape, DECODE)
    check(scene.run(run), scene.expected(), 2e-6)


def test_large_scores_stay_finite(run, check):
    scene = Scene(_shape(2, 1, 64, tile_tokens=16), PREFILL)
    scene.queries *= 300
    check(scene.run(run), scene.expected(), 1e-3)


def test_stale_tokens_behind_the_last_position_do_not_matter(run):
    scene = Scene(_shape(2, 1, 64, tile_tokens=1), [(0, 5, 1)])
    before = scene.run(run)
    data = scene.values.view(np.float16).reshape(-1, PAGE, 64)
    data[scene.page_table[0, 0], 6:] = 60000
    np.testing.assert_array_equal(scene.run(run), before)


def test_padding_and_empty_tiles_write_nothing(run):
    scene = Scene(_shape(2, 1, 64, tile_tokens=4), [(0, 10, 3)])
    assert not scene.run(run)[-1].any()


def test_splits_for():
    assert splits_for(tiles=1, kv_heads=8, threads=1) == 1
    assert splits_for(tiles=1, kv_heads=8, threads=2) == 1
    assert splits_for(tiles=1, kv_heads=3, threads=2) == 2
    assert splits_for(tiles=1, kv_heads=2, threads=12) == 6
    assert splits_for(tiles=8, kv_heads=8, threads=16) == 1
    assert splits_for(tiles=1, kv_heads=1, threads=64) == 16
