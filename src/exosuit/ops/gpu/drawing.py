"""What in sampling depends on the order of the tokens, for a workgroup of many lanes.

Each lane takes a run of neighbouring tokens; a prefix sum over the lanes says what lies before it.
Everything is added in a fixed order, so that a seed always draws the same token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from exosuit.kernel import (
    DType,
    Pointer,
    Value,
    barrier,
    constant,
    f32,
    group_lanes,
    group_max,
    group_min,
    i32,
    lane,
    loop,
    minimum,
    select,
    shared,
    shuffle_xor,
    variable,
    wave,
    wave_lane,
    when,
    zeros,
)

_RUN = 4
_NOBODY = 1 << 30


def prefix_sum(x: Value) -> tuple[Value, Value]:
    """The sum of a scalar over all lanes before this one, and over all lanes."""
    lane_number = wave_lane()
    before, total = x - x, x
    for mask in (1, 2, 4, 8, 16):
        other = shuffle_xor(total, mask)
        before = select((lane_number & mask).ne(0), before + other, before)
        total = total + other
    waves = group_lanes() // 32
    totals = shared(x.dtype, waves)
    with when(lane_number.eq(0)):
        totals[wave()] = total
    barrier()
    earlier, everything = x - x, x - x
    for w in range(waves):
        earlier = select(wave() > w, earlier + totals.load(w), earlier)
        everything = everything + totals.load(w)
    barrier()
    return earlier + before, everything


def list_above(
    values: Pointer[DType],
    size: int,
    floor: Value,
    found: Pointer[DType],
    members: Pointer[DType],
) -> Value:
    """Copy what reaches `floor`, in order, and where it stood; returns how many there are.

    size  a multiple of 4, and `values` starts at a multiple of 16 bytes
    """
    number = variable(zeros(i32))
    for place in _own(size, _RUN):
        four = values.load(place, _RUN, align=16)
        for k in range(_RUN):
            number.value += (four[k] >= floor).to(i32)
    start, total = prefix_sum(number.value)
    end = variable(start)
    for place in _own(size, _RUN):
        four = values.load(place, _RUN, align=16)
        for k in range(_RUN):
            with when(four[k] >= floor):
                found[end.value] = four[k]
                members[end.value] = place + k
                end.value += 1
    barrier()
    return total


def draw_in_order(chance: Callable[[Value], Value], size: Value | int, draw: Value) -> Value:
    """The place where the sum of the chances passes `draw` times all of them, in every lane.

    At the latest the last place with any chance; there is one.
    """
    mine = variable(zeros(f32))
    for place in _own(size, 1):
        mine.value += chance(place)
    before, total = prefix_sum(mine.value)
    goal = draw * total
    passes = (mine.value > 0.0) & (before + mine.value > goal)
    first = group_min(select(passes, lane(), _NOBODY))
    last = group_max(select(mine.value > 0.0, lane(), -1))
    winner = select(first < _NOBODY, first, last)
    chosen = shared(i32, 1)
    with when(lane().eq(winner)):
        passed, place_of = variable(before), variable(constant(i32, -1))
        for place in _own(size, 1):
            own = chance(place)
            wanted = (own > 0.0) & ((passed.value <= goal) | (place_of.value < 0))
            place_of.value = select(wanted, place, place_of.value)
            passed.value += own
        chosen[0] = place_of.value
    barrier()
    result = chosen.load(0)
    barrier()
    return result


def _own(size: Value | int, run: int) -> Iterator[Value]:
    """This lane's places, a run at a time; lanes in order have neighbouring places."""
    lanes = group_lanes()
    each = (size + (lanes * run - 1)) // (lanes * run) * run
    start = lane() * each
    return loop(minimum(start + each, size), start=start, step=run)
