"""Page tables, walked by somebody else: a walker of a few lines that reads what was written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exosuit.driver.amd.hubs import VA_BASE
from exosuit.driver.amd.vm import AddressSpace
from exosuit.driver.ranges import Ranges
from exosuit.errors import DoesNotFit
from exosuit.silicon.amd.paging import Pte, Pte12
from exosuit.units import GpuAddress, MiB

TABLES = (1 * MiB, 3 * MiB)
PAGE = 4096


class Written:
    """Local memory as the card has it, and a count of what crossed."""

    def __init__(self) -> None:
        self.bytes = np.full(4 * MiB, 0xA5, np.uint8)  # power-on leaves anything there
        self.writes = 0
        self.flushed = True
        self.invalidations = 0

    def write(self, address: int, data: bytes) -> None:
        self.bytes[address : address + len(data)] = np.frombuffer(data, np.uint8)
        self.writes += 1
        self.flushed = False

    def flush(self) -> None:
        self.flushed = True

    def invalidate(self) -> None:
        assert self.flushed, "translations are forgotten before the entries are visible"
        self.invalidations += 1

    def walk(self, address: int, gfx12: bool) -> int | None:
        """The leaf's frame address and flags for a page, by the published layout."""
        offset, table = address - VA_BASE, 0
        for shift in (39, 30, 21, 12):
            at = table + 8 * (offset >> shift & 511)
            entry = int.from_bytes(self.bytes[at : at + 8].tobytes(), "little")
            if not entry & 1:
                return None
            is_leaf = shift == 12 or entry >> (63 if gfx12 else 54) & 1
            if is_leaf:
                inside = offset & ((1 << shift) - 1) & ~0xFFF
                fragment = entry >> 7 & 31
                block = 1 << (12 + fragment)
                assert block >= 1 << shift
                # A fragment says that everything around lies together: the block must be mapped
                # as one, from an aligned place.
                frame = entry & 0x0000_FFFF_FFFF_F000
                assert (frame - (offset & ~((1 << shift) - 1))) % block == 0
                return frame + inside | entry & 0x76
            table = entry & 0x0000_FFFF_FFFF_F000
            assert TABLES[0] <= table < TABLES[1]
        raise AssertionError


def make(kind: type[Pte] = Pte) -> tuple[AddressSpace, Written]:
    written = Written()
    space = AddressSpace(written, written, kind, Ranges(*TABLES))  # type: ignore[arg-type]
    return space, written


VRAM = 0x72  # read, write, execute; the S bit of host memory is 2, snooped 4


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([Pte, Pte12]))
def test_every_page_leads_where_it_should_and_no_other_does(data, kind):
    space, written = make(kind)
    expected: dict[int, int] = {}
    mapped: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        if mapped and data.draw(st.booleans()):
            page, count = mapped.popitem()
            space.unmap(GpuAddress(VA_BASE + page * PAGE), count * PAGE)
            for p in range(page, page + count):
                expected.pop(p, None)
            continue
        pieces = data.draw(
            st.lists(
                st.tuples(
                    st.sampled_from([0, 1, 511, 512, 1024, 4096, 5000]), st.integers(1, 1500)
                ),
                min_size=1,
                max_size=3,
            )
        )
        count = sum(size for _, size in pieces)
        page = data.draw(st.sampled_from([0, 1, 512, 1024, 1 << 18, (1 << 18) - 3, 1 << 27]))
        if any(p in expected for p in range(page, page + count)):
            continue
        system = data.draw(st.booleans())
        space.map(
            GpuAddress(VA_BASE + page * PAGE),
            [(start * PAGE, size * PAGE) for start, size in pieces],
            system=system,
        )
        mapped[page] = count
        at = page
        for start, size in pieces:
            for k in range(size):
                expected[at] = (start + k) * PAGE | (0x76 if system else 0x70)
                at += 1
    space.flush()
    gfx12 = kind is Pte12
    for page, wanted in expected.items():
        assert written.walk(VA_BASE + page * PAGE, gfx12) == wanted
    for page in (2, 600, 1 << 17, (1 << 18) + 1600, 1 << 26, (1 << 27) + 1600):
        if page not in expected:
            assert written.walk(VA_BASE + page * PAGE, gfx12) is None


def test_many_maps_are_one_invalidation_and_few_writes():
    space, written = make()
    for k in range(40):
        space.map(GpuAddress(VA_BASE + k * 4 * MiB), [(k * 2 * MiB, 2 * MiB)], system=False)
    assert written.writes == 0
    space.flush()
    assert written.invalidations == 1
    assert written.writes <= 3
    space.flush()
    assert written.invalidations == 1  # nothing has changed since


def test_a_large_map_is_large_leaves():
    """16 GiB in 64 KiB of entries, one or two writes."""
    space, written = make()
    space.map(GpuAddress(VA_BASE), [(0, 16 << 30)], system=False)
    space.flush()
    assert written.writes <= 3
    middle = written.walk(VA_BASE + (9 << 30) + 12345 * PAGE, gfx12=False)
    assert middle == ((9 << 30) + 12345 * PAGE) | 0x70


def test_empty_tables_are_given_back():
    space, _ = make()
    for _ in range(2000):  # 2 MiB of tables would last for 170 of these
        space.map(GpuAddress(VA_BASE + (1 << 40)), [(0, PAGE)], system=False)
        space.unmap(GpuAddress(VA_BASE + (1 << 40)), PAGE)
        space.flush()


def test_tables_may_run_out():
    space, _ = make()

    def map_many() -> None:
        for k in range(1000):
            space.map(GpuAddress(VA_BASE + k * 4 * MiB), [(PAGE, PAGE)], system=False)

    with pytest.raises(DoesNotFit, match="page tables"):
        map_many()
