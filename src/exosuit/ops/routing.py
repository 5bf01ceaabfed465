"""Mixtures of experts: which tokens go to which experts, and how their results come together.

    route    a token's router logits -> its experts and their weights
    deal     all choices -> for each expert a list of rows, padded to whole tiles, so that one
             matrix kernel runs all experts: tile by tile, each tile with one expert's weights
    collect  a token's weighted sum of its rows of the experts' results

A row is one choice: number `token * chosen + k`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    In,
    InOut,
    Out,
    Scalar,
    barrier,
    constant,
    each,
    exp,
    f32,
    group,
    group_max,
    group_min,
    group_sum,
    i32,
    i64,
    kernel,
    leader,
    loop,
    maximum,
    minimum,
    select,
    shared,
    target,
    variable,
    when,
    zeros,
)


@dataclass(frozen=True)
class Routing:
    """A mixture's shape.

    experts, chosen  how many there are, and how many each token visits (at most 16)
    renormalise      weights of the chosen experts are scaled to sum to 1
    scale            factor of all weights
    tile             rows of a tile
    """

    experts: int
    chosen: int
    renormalise: bool
    scale: float
    tile: int

    def tiles(self, tokens: int) -> int:
        """Most tiles that `tokens` tokens can need."""
        choices = tokens * self.chosen
        partial = min(self.experts, choices)
        return partial + (choices - partial) // self.tile


@kernel(group_size=32)
def route(logits: In[f32], experts: Out[i32], weights: Out[f32], *, routing: Routing) -> None:
    """Softmax over all experts, then the best of them, best first; ties to the lower number.

    logits f32[T, experts]    experts i32[T, chosen]    weights f32[T, chosen]    T groups
    """
    count, token = routing.experts, group()
    line = logits.at(token * count)
    left, raw = shared(f32, count), shared(f32, routing.chosen)
    lanes = target().lanes
    peak = variable(constant(f32, float("-inf"), lanes))
    for i in each(count):
        left[i] = line[i]
        peak.value = maximum(peak.value, line[i])
    top = group_max(peak.value)
    total = variable(zeros(f32, lanes))
    for i in each(count):
        total.value += exp(line[i] - top)
    whole = variable(group_sum(total.value))
    barrier()
    chosen_sum = variable(zeros(f32))
    place = token * routing.chosen
    for k in loop(routing.chosen):
        best = variable(constant(f32, float("-inf"), lanes))
        for i in each(count):
            best.value = maximum(best.value, left[i])
        highest = group_max(best.value)
        first = variable(constant(i32, count - 1, lanes))
        for i in each(count):
            first.value = minimum(first.value, select(left[i].eq(highest), i, count - 1))
        expert = group_min(first.value)
        weight = exp(highest - top)
        chosen_sum.value += weight
        experts[place + k] = expert
        raw[k] = weight
        barrier()
        left[expert] = constant(f32, float("-inf"))
        barrier()
    if routing.renormalise:
        whole.value = chosen_sum.value
    factor = routing.scale / whole.value
    for k in loop(routing.chosen):
        weights[place + k] = raw[k] * factor


def route_reference(
    logits: NDArray[Any], routing: Routing
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Experts and weights, [T, chosen] each."""
    wide = logits.astype(np.float64)
    weight = np.exp(wide - wide.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    order = np.argsort(-wide, axis=-1, kind="stable")[:, : routing.chosen]
    found = np.take_along_axis(weight, order, axis=-1)
    if routing.renormalise:
        found = found / found.sum(-1, keepdims=True)
    return order, found * routing.scale


@kernel(group_size=32)
def deal(
    experts: In[i32],
    slots: In[i32],
    rows: Out[i32],
    tile_experts: Out[i32],
    places: Out[i32],
    tokens: Scalar[i32],
    tiles: Scalar[i32],
    *,
    routing: Routing,
) -> None:
    """Sort the choices by expert; each expert's begin at a tile's border. 1 group.

    experts       i32[T, chosen]
    slots         i32[T]; tokens of slot -1 are padding and visit nobody
    rows          i32[tiles * tile]: the choice in each place, -1 in padding
    tile_experts  i32[tiles]: whose weights a tile takes, -1 where there is nothing to do
    places        i32[T, chosen]: where each choice went, -1 for padding tokens
    tiles         `routing.tiles(T)`
    """
    tile, chosen = routing.tile, routing.chosen
    ends = shared(i32, routing.experts)
    with leader():
        for e in loop(routing.experts):
            ends.store(constant(i32, 0), e)
        for token in loop(tokens):
            with when(slots.load(token) >= 0):
                for k in loop(chosen):
                    expert = experts.load(token * chosen + k)
                    ends.store(ends.load(expert) + 1, expert)
        # Counts become the places where the next choice goes.
        end = variable(constant(i32, 0))
        for e in loop(routing.experts):
            needed = (ends.load(e) + (tile - 1)) // tile
            ends.store(end.value * tile, e)
            for t in loop(end.value + needed, start=end.value):
                tile_experts.store(e, t)
            end.value += needed
        for t in loop(tiles, start=end.value):
            tile_experts.store(constant(i32, -1), t)
        for i in loop(tiles * tile):
            rows.store(constant(i32, -1), i)
        for token in loop(tokens):
            real = slots.load(token) >= 0
            for k in loop(chosen):
                row = token * chosen + k
                places.store(constant(i32, -1), row)
                with when(real):
                    expert = experts.load(row)
                    place = ends.load(expert)
                    rows.store(row, place)
                    places.store(place, row)
                    ends.store(place + 1, expert)


def deal_reference(
    experts: NDArray[Any], slots: NDArray[Any], routing: Routing
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """rows, tile_experts, places"""
    tokens = len(slots)
    tiles = routing.tiles(tokens)
    rows = np.full(tiles * routing.tile, -1, np.int32)
    tile_experts = np.full(tiles, -1, np.int32)
    places = np.full((tokens, routing.chosen), -1, np.int32)
    tile = 0
    for expert in range(routing.experts):
        choices = np.flatnonzero(((experts == expert) & (slots >= 0)[:, None]).reshape(-1))
        needed = -(-len(choices) // routing.tile)
        tile_experts[tile : tile + needed] = expert
        start = tile * routing.tile
        rows[start : start + len(choices)] = choices
        places.reshape(-1)[choices] = start + np.arange(len(choices))
        tile += needed
    return rows, tile_experts, places


@kernel
def collect(
    results: In[f32],
    weights: In[f32],
    places: In[i32],
    out: InOut[f32],
    *,
    width: int,
    chosen: int,
) -> None:
    """`out[token] += sum over k of weights[token, k] * results[places[token, k]]`. T groups.

    results f32[tiles * tile, width]    weights, places [T, chosen]    out f32[T, width]
    """
    token = group()
    line = out.at(token.to(i64) * width)
    with when(places[token * chosen] >= 0):
        picks = [
            (
                results.at(places[token * chosen + k].to(i64) * width),
                weights[token * chosen + k],
            )
            for k in range(chosen)
        ]
        for i in each(width):
            total = line[i]
            for result, weight in picks:
                total = total + result[i] * weight
            line[i] = total


def collect_reference(
    results: NDArray[Any], weights: NDArray[Any], places: NDArray[Any], out: NDArray[Any]
) -> NDArray[np.float64]:
    picked = results.astype(np.float64)[places] * weights[..., None]
    return out + np.where(places[..., :1] >= 0, picked.sum(1), 0.0)
