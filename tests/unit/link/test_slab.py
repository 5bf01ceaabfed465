"""Few large mappings serve many small wishes, within the app's limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.errors import LinkError
from exosuit.link.function import PAGE, Segment, cut
from exosuit.link.slab import Slab, SlabAllocator
from exosuit.units import BusAddress, KiB, MiB


def mapper(pieces: int = 1, cover: float = 1.0):
    """Slabs in `pieces` segments that cover only a part, as when the app cuts the list off."""
    address = 0x1_0000_0000

    def map_slab(size: int) -> Slab:
        nonlocal address
        covered = int(size * cover) // PAGE * PAGE
        length = max(covered // pieces // PAGE, 1) * PAGE
        segments: list[Segment] = []
        left = covered
        while left > 0:
            taken = min(length, left)
            segments.append(Segment(BusAddress(address), taken))
            address += taken + 16 * PAGE
            left -= taken
        return Slab(memoryview(bytearray(size)), segments)

    return map_slab


def test_a_thousand_allocations_take_one_mapping():
    slabs = SlabAllocator(mapper())
    taken = [slabs.allocate(4096, contiguous=True) for _ in range(1000)]
    assert len(slabs.slabs) == 1
    assert len({offset for _, offset in taken}) == 1000


def test_the_hundred_and_twenty_ninth_mapping_is_refused_in_words():
    slabs = SlabAllocator(mapper(), slab_size=64 * KiB)
    for _ in range(128):
        slabs.allocate(64 * KiB, contiguous=False)
    with pytest.raises(LinkError, match="all 128 DMA mappings"):
        slabs.allocate(4096, contiguous=False)
    slabs.release(slabs.slabs[5], 0, 64 * KiB)
    assert slabs.allocate(4096, contiguous=False)[0] is slabs.slabs[5]


def test_contiguous_memory_lies_in_one_segment():
    slabs = SlabAllocator(mapper(pieces=8), slab_size=1 * MiB)
    slabs.allocate(100 * KiB, contiguous=False)
    slab, offset = slabs.allocate(128 * KiB, contiguous=True)
    assert len(cut(slab.segments, offset, 128 * KiB)) == 1


def test_what_the_segment_list_does_not_cover_is_never_used():
    slabs = SlabAllocator(mapper(pieces=32, cover=0.5), slab_size=1 * MiB)
    slab, _ = slabs.allocate(256 * KiB, contiguous=False)
    assert slab.usable == 512 * KiB
    with pytest.raises(LinkError, match="no 4 MiB of DMA memory"):
        slabs.allocate(4 * MiB, contiguous=False)


@given(st.lists(st.tuples(st.integers(1, 200_000), st.booleans(), st.booleans()), max_size=60))
def test_ranges_never_overlap_and_everything_comes_back(
    wishes: list[tuple[int, bool, bool]],
):
    slabs = SlabAllocator(mapper(pieces=4), slab_size=1 * MiB)
    held: list[tuple[Slab, int, int]] = []
    for size, contiguous, release_first in wishes:
        if release_first and held:
            slabs.release(*held.pop(len(held) // 2))
        slab, offset = slabs.allocate(size, contiguous=contiguous)
        assert offset + size <= slab.usable
        for other, start, length in held:
            assert other is not slab or offset + size <= start or start + length <= offset
        held.append((slab, offset, size))
    for range_ in held:
        slabs.release(*range_)
    assert all(slab.free == [(0, slab.usable)] for slab in slabs.slabs)
