"""Arenas: regions in order, aligned, reused after a rewind, refused when there is no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.driver.cpu import CpuDevice
from exosuit.errors import DoesNotFit
from exosuit.graph import Arena
from exosuit.kernel import Target


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_regions_are_aligned_and_apart(sizes):
    arena = Arena.measuring()
    regions = [arena.take(size) for size in sizes]
    assert [region.size_bytes for region in regions] == sizes
    assert all(region.offset % 128 == 0 for region in regions)
    end = 0
    for region in regions:
        assert end <= region.offset < end + 128
        end = region.offset + region.size_bytes
    assert arena.used_bytes == arena.most_bytes == end


def test_what_was_measured_is_enough():
    measured = Arena.measuring()
    for size in (1, 500, 128, 3):
        measured.take(size)
    device = CpuDevice(Target.host().name, 1)
    arena = Arena(device, measured.most_bytes, "exact")
    for size in (1, 500, 128, 3):
        assert arena.take(size).address % 128 == 0
    with pytest.raises(DoesNotFit, match="1 B more do not fit into exact") as caught:
        arena.take(1)
    assert "771 B of them in use" in caught.value.cause
    arena.close()
    device.close()


def test_rewinding_reuses_memory_and_remembers_the_most():
    arena = Arena.measuring()
    arena.take(100)
    mark = arena.mark()
    first = arena.take(1000)
    arena.rewind(mark)
    assert arena.used_bytes == mark == 100
    again = arena.take(50)
    assert again.offset == first.offset == 128
    assert (arena.used_bytes, arena.most_bytes) == (178, 1128)


def test_a_refused_region_takes_nothing():
    device = CpuDevice(Target.host().name, 1)
    arena = Arena(device, 256, "small")
    with pytest.raises(DoesNotFit):
        arena.take(257)
    assert arena.used_bytes == 0
    assert arena.take(256).size_bytes == 256
    arena.close()
    device.close()
