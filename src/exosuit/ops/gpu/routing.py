"""Dealing choices to experts on a GPU: a lane is an expert and walks over all choices."""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.kernel import (
    DType,
    In,
    Out,
    Pointer,
    Scalar,
    Value,
    barrier,
    constant,
    each,
    i32,
    kernel,
    loop,
    select,
    shared,
    variable,
    when,
)
from exosuit.ops.routing import Routing


@kernel(group_size=256)
def deal_gpu(
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
    """As `ops.routing.deal`. 1 group. Every place is written by one lane only."""
    tile, chosen, count = routing.tile, routing.chosen, routing.experts
    needed = shared(i32, count)
    for e in each(count):
        own = variable(constant(i32, 0))
        for _ in _choices(experts, slots, tokens, chosen, e):
            own.value += 1
        needed[e] = (own.value + (tile - 1)) // tile
    barrier()
    end = _tiles_before(needed, count, constant(i32, count))
    for e in each(count):
        first = _tiles_before(needed, count, e)
        last = first + needed[e]
        for t in loop(last, start=first):
            tile_experts[t] = e
        place = variable(first * tile)
        for row in _choices(experts, slots, tokens, chosen, e):
            rows[place.value] = row
            places[row] = place.value
            place.value += 1
        for i in loop(last * tile, start=place.value):
            rows[i] = constant(i32, -1)
    for t in each(tiles - end):
        tile_experts[t + end] = constant(i32, -1)
    for i in each((tiles - end) * tile):
        rows[i + end * tile] = constant(i32, -1)
    for row in each(tokens * chosen):
        with when(slots[row // chosen] < 0):
            places[row] = constant(i32, -1)


def _choices(
    experts: Pointer[DType], slots: Pointer[DType], tokens: Value, chosen: int, expert: Value
) -> Iterator[Value]:
    """The choices of one expert, in order."""
    for token in loop(tokens):
        with when(slots[token] >= 0):
            for k in loop(chosen):
                row = token * chosen + k
                with when(experts[row].eq(expert)):
                    yield row


def _tiles_before(needed: Pointer[DType], count: int, expert: Value) -> Value:
    total = variable(constant(i32, 0))
    for other in loop(count):
        total.value += select(other < expert, needed[other], 0)
    return total.value
