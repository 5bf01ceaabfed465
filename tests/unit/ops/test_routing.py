"""Routing: choices and weights, the lists dealt to experts, and a whole mixture end to end."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.routing import (
    Routing,
    collect,
    collect_reference,
    deal,
    deal_reference,
    route,
    route_reference,
)

RNG = np.random.default_rng(3)


def _route(run, logits, routing):
    tokens = len(logits)
    experts = np.zeros((tokens, routing.chosen), np.int32)
    weights = np.zeros((tokens, routing.chosen), np.float32)
    run(route, tokens, logits, experts, weights, routing=routing)
    return experts, weights


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("experts", "chosen"), [(8, 2), (128, 8), (60, 4), (3, 3), (1, 1)])
def test_route(run, check, experts, chosen, renormalise):
    routing = Routing(experts, chosen, renormalise, 1.5, 4)
    logits = (RNG.normal(size=(9, experts)) * 3).astype(np.float32)
    found = _route(run, logits, routing)
    expected = route_reference(logits, routing)
    np.testing.assert_array_equal(found[0], expected[0])
    check(found[1], expected[1], 1e-6)


def test_ties_go_to_the_lower_number_and_nobody_is_chosen_twice(run):
    experts, weights = _route(run, np.zeros((1, 12), np.float32), Routing(12, 4, True, 1.0, 4))
    assert experts.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(weights, 0.25)


def _deal(run, experts, slots, routing):
    tokens = len(slots)
    tiles = routing.tiles(tokens)
    rows = np.full(tiles * routing.tile, 7, np.int32)
    tile_experts = np.full(tiles, 7, np.int32)
    places = np.full((tokens, routing.chosen), 7, np.int32)
    run(deal, 1, experts, slots, rows, tile_experts, places, tokens, tiles, routing=routing)
    return rows, tile_experts, places


@pytest.mark.parametrize(
    ("tokens", "experts", "chosen", "tile"),
    [(1, 8, 2, 4), (33, 8, 2, 4), (5, 128, 8, 16), (40, 3, 3, 8)],
)
def test_deal(run, tokens, experts, chosen, tile):
    routing = Routing(experts, chosen, True, 1.0, tile)
    choices = np.stack([RNG.permutation(experts)[:chosen] for _ in range(tokens)]).astype(np.int32)
    slots = np.where(RNG.random(tokens) < 0.2, -1, 0).astype(np.int32)
    slots[0] = 0
    found = _deal(run, choices, slots, routing)
    for actual, expected in zip(found, deal_reference(choices, slots, routing), strict=True):
        np.testing.assert_array_equal(actual, expected)
    rows, tile_experts, places = found
    assert sorted(rows[rows >= 0]) == sorted(
        t * chosen + k for t in np.flatnonzero(slots >= 0) for k in range(chosen)
    )
    for place in np.flatnonzero(rows >= 0):
        assert choices.reshape(-1)[rows[place]] == tile_experts[place // tile]
        assert places.reshape(-1)[rows[place]] == place


def test_the_bound_on_tiles_is_reached():
    routing = Routing(4, 1, True, 1.0, 4)
    # One choice for three of the experts, the other five for the last: 1 + 1 + 1 + 2 tiles.
    choices = np.array([[0], [1], [2], [3], [3], [3], [3], [3]], np.int32)
    _, tile_experts, _ = deal_reference(choices, np.zeros(8, np.int32), routing)
    assert routing.tiles(8) == 5
    assert tile_experts.tolist() == [0, 1, 2, 3, 3]


def test_collect(run, check):
    width, chosen = 37, 3
    results = RNG.normal(size=(20, width)).astype(np.float32)
    weights = RNG.random((4, chosen)).astype(np.float32)
    places = RNG.permutation(20)[: 4 * chosen].reshape(4, chosen).astype(np.int32)
    places[2] = -1
    out = RNG.normal(size=(4, width)).astype(np.float32)
    expected = collect_reference(results, weights, places, out)
    run(collect, 4, results, weights, places, out, width=width, chosen=chosen)
    check(out, expected, 1e-6)
