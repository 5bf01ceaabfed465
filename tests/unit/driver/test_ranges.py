"""Ranges against a plain set of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.driver.ranges import Ranges

END = 64


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "pieces", "give"]),
            st.integers(1, 20),
            st.sampled_from([1, 2, 4, 8]),
        ),
        max_size=60,
    )
)
def test_nothing_is_given_out_twice_and_nothing_is_lost(steps):
    ranges = Ranges(3, END)
    free = set(range(3, END))
    taken: list[list[tuple[int, int]]] = []
    for what, size, alignment in steps:
        if what == "give":
            if taken:
                for start, length in taken.pop(size % len(taken)):
                    ranges.give(start, length)
                    free |= set(range(start, start + length))
            continue
        if what == "take":
            start = ranges.take(size, alignment)
            pieces = None if start is None else [(start, size)]
            possible = any(
                set(range(s, s + size)) <= free for s in range(0, END, alignment) if s + size <= END
            )
            assert (pieces is not None) == possible
        else:
            size = -(-size // alignment) * alignment
            found = ranges.take_pieces(size, alignment)
            pieces = None if found is None else [(p.start, p.size) for p in found]
            blocks = sum(set(range(s, s + alignment)) <= free for s in range(0, END, alignment))
            assert (pieces is not None) == (blocks * alignment >= size)
        for start, length in pieces or []:
            assert start % alignment == 0
            assert set(range(start, start + length)) <= free
            free -= set(range(start, start + length))
        if pieces:
            assert sum(length for _, length in pieces) == size
            taken.append(pieces)
        assert ranges.free_bytes == len(free)


def test_giving_back_twice_is_our_own_mistake():
    ranges = Ranges(0, 10)
    assert ranges.take(4, 1) == 0
    ranges.give(0, 4)
    with pytest.raises(AssertionError):
        ranges.give(2, 1)


def test_an_empty_range():
    assert Ranges(5, 5).take(1, 1) is None
    assert Ranges(5, 3).free_bytes == 0
