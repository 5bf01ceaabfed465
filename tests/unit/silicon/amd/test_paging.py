"""Page-table entries against those that a hardware-proven driver writes, and the bulk form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.silicon.amd.paging import (
    PAGE,
    SHIFTS,
    Pte,
    Pte12,
    entry_kind,
    index,
    largest_fragment,
    leaf,
    leaves,
    pointer,
)

GOLDEN = {
    11: (0x1, 0x71, 0x0040_0000_0000_04F1, 0x0003_0000_0000_0071, 0x0003_0000_0000_0077),
    12: (
        0x1, 0x8000_0000_0000_0071, 0x8000_0000_0000_04F1, 0x80C0_0000_0000_0071,
        0x80C0_0000_0000_0077,
    ),
}  # fmt: skip


@pytest.mark.parametrize("gfx", [11, 12])
def test_golden_entries(gfx: int):
    kind = entry_kind(gfx)
    made = (
        pointer(kind, 0),
        leaf(kind, 0, 3),
        leaf(kind, 0, 2, fragment=9),
        leaf(kind, 0, 3, cached=False),
        leaf(kind, 0, 3, system=True),
    )
    assert tuple(map(int, made)) == GOLDEN[gfx]
    address = 0x7_1234_5000
    assert pointer(kind, address) == GOLDEN[gfx][0] + address
    assert leaf(kind, address, 3) == GOLDEN[gfx][1] + address
    assert leaf(kind, address, 3, system=True) == GOLDEN[gfx][4] + address
    assert kind(leaf(kind, address, 3)).frame * PAGE == address


@given(
    st.sampled_from([Pte, Pte12]), st.sampled_from([1, 2, 3]), st.integers(0, 1 << 20),
    st.integers(0, 600), st.booleans(),
)  # fmt: skip
def test_the_bulk_form_is_the_scalar_form(kind, level: int, frame: int, count: int, system: bool):
    first = frame << SHIFTS[level]
    first &= (1 << 47) - 1
    made = leaves(leaf(kind, first, level, system=system), count, level)
    assert made.typecode == "Q"
    assert list(made) == [
        leaf(kind, first + (k << SHIFTS[level]), level, system=system) for k in range(count)
    ]


@given(st.integers(0, (1 << 48) - 1))
def test_indices_make_up_the_address(offset: int):
    together = sum(index(offset, level) << SHIFTS[level] for level in range(4))
    assert together == offset & ~(PAGE - 1)


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.integers(1, 1 << 20))
def test_a_fragment_never_maps_more_than_there_is(virtual: int, physical: int, pages: int):
    run = largest_fragment(virtual * PAGE, physical * PAGE, pages * PAGE)
    size = PAGE << run
    assert size <= pages * PAGE
    assert virtual * PAGE % size == 0
    assert physical * PAGE % size == 0
    larger = size * 2
    assert larger > pages * PAGE or virtual * PAGE % larger or physical * PAGE % larger
