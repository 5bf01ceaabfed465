"""Page tables of both versions, walked by somebody else: tinygrad's own description of entries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygrad.runtime.autogen.nv_regs import dev_mmu

from exosuit.clock import ManualClock
from exosuit.driver.nvidia.bare_metal.layout import FIRST_VA
from exosuit.driver.nvidia.bare_metal.vm import AddressSpace
from exosuit.driver.ranges import Ranges
from exosuit.errors import DoesNotFit
from exosuit.silicon.nvidia.paging import EVERYTHING, FORMATS, MmuInvalidate
from exosuit.units import GpuAddress, MiB

PAGE = 4096
SHIFTS = {2: (47, 38, 29, 21, 12), 3: (56, 47, 38, 29, 21, 12)}
TABLE = {2: dev_mmu.tu102, 3: dev_mmu.gh100}


def field(version: int, group: str, name: str, entry: int) -> int:
    """One field of an entry, by NVIDIA's header as tinygrad generated it."""
    low, high = TABLE[version][f"NV_MMU_VER{version}_{group}"][2][name]
    return entry >> low & (1 << high - low + 1) - 1


class Written:
    """Local memory as the card has it, and the invalidations."""

    def __init__(self) -> None:
        self.bytes = np.full(8 * MiB, 0xA5, np.uint8)  # power-on leaves anything there
        self.writes = 0
        self.invalidations: list[int] = []

    def write(self, address: int, data: bytes) -> None:
        self.bytes[address : address + len(data)] = np.frombuffer(data, np.uint8)
        self.writes += 1

    def read32(self, offset: int) -> int:
        return 0

    def write32(self, offset: int, value: int) -> None:
        self.invalidations.append(value)

    def entry(self, at: int, size: int) -> int:
        return int.from_bytes(self.bytes[at : at + size].tobytes(), "little")

    def walk(self, version: int, root: int, address: int) -> tuple[int, int] | None:
        """Aperture and address of the page that holds a byte."""
        table, shifts = root, SHIFTS[version]
        system = "_sys" if version == 2 else ""
        for level, shift in enumerate(shifts):
            bits = (
                2 if level == 0 and version == 2 else 1 if level == 0 else shifts[level - 1] - shift
            )
            index = address >> shift & (1 << bits) - 1
            dual = shift == 21
            entry = self.entry(table + index * (16 if dual else 8), 16 if dual else 8)
            if shift == 12 or (shift in (21, 29) and entry & 1):
                low = entry & (1 << 64) - 1
                if not field(version, "PTE", "valid", low):
                    return None
                assert field(version, "PTE", "kind", low) == 6
                frame = field(version, "PTE", "address_sys", low)
                assert not frame % (1 << shift - 12)
                return field(version, "PTE", "aperture", low), (frame << 12) + address % (
                    1 << shift
                )
            if dual:
                assert field(version, "DUAL_PDE", "aperture_big", entry) == 0
                if field(version, "DUAL_PDE", "aperture_small", entry) == 0:
                    return None
                name = f"address_small{system}"
                table = field(version, "DUAL_PDE", name, entry) << 12
            else:
                if field(version, "PDE", "aperture", entry) == 0:
                    return None
                assert field(version, "PDE", "aperture", entry) == 1
                table = field(version, "PDE", f"address{system}", entry) << 12
        raise AssertionError


def make(version: int, tables: tuple[int, int] = (0, 4 * MiB)) -> tuple[AddressSpace, Written]:
    memory = Written()
    mmu, free = MmuInvalidate(memory), Ranges(*tables)
    space = AddressSpace(FORMATS[version], memory, mmu, free, ManualClock(), lambda: None)
    return space, memory


@pytest.mark.parametrize("version", [2, 3])
def test_small_and_large_pages(version: int):
    space, memory = make(version)
    at = GpuAddress(FIRST_VA)
    space.map(at, [(64 * MiB, 4 * MiB), (0x1234_5000, 3 * PAGE)], system=False)
    space.map(GpuAddress(at + 8 * MiB), [(0x98_7654_3000, 2 * PAGE)], system=True)
    space.flush()
    assert memory.invalidations == [EVERYTHING]
    for offset, expected in (
        (0, (0, 64 * MiB)),
        (3 * MiB + 5, (0, 67 * MiB + 5)),
        (4 * MiB, (0, 0x1234_5000)),
        (4 * MiB + 2 * PAGE + 7, (0, 0x1234_7007)),
        (4 * MiB + 3 * PAGE, None),
        (8 * MiB + PAGE, (2, 0x98_7654_4000)),
        (8 * MiB + 2 * PAGE, None),
        (12 * MiB, None),
    ):
        assert memory.walk(version, space.root, at + offset) == expected, hex(offset)


@pytest.mark.parametrize("version", [2, 3])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_sequence_of_maps_and_unmaps(version: int, data: st.DataObject):
    space, memory = make(version)
    addresses = Ranges(FIRST_VA, FIRST_VA + 64 * MiB)
    live: list[tuple[int, int, int, bool]] = []
    for _ in range(data.draw(st.integers(1, 12))):
        if live and data.draw(st.booleans()):
            at, size, _, _ = live.pop(data.draw(st.integers(0, len(live) - 1)))
            space.unmap(GpuAddress(at), size)
            addresses.give(at, size)
        else:
            large = data.draw(st.booleans())
            unit = 2 * MiB if large else PAGE
            size = data.draw(st.integers(1, 4 if large else 700)) * unit
            at = addresses.take(size, unit)
            if at is None:
                continue
            physical = data.draw(st.integers(1, 1 << 10)) * unit
            system = data.draw(st.booleans())
            space.map(GpuAddress(at), [(physical, size)], system=system)
            live.append((at, size, physical, system))
        if data.draw(st.booleans()):
            space.flush()
    space.flush()
    for at, size, physical, system in live:
        for offset in (0, size - 1, size // 2):
            expected = (2 if system else 0, physical + offset)
            assert memory.walk(version, space.root, at + offset) == expected
    for at, size, _, _ in live:
        space.unmap(GpuAddress(at), size)
    space.flush()
    for at, _, _, _ in live:
        assert memory.walk(version, space.root, at) is None


def test_nothing_is_written_twice():
    space, memory = make(3)
    space.map(GpuAddress(FIRST_VA), [(0, 2 * MiB)], system=False)
    space.flush()
    writes = memory.writes
    space.flush()
    assert memory.writes == writes
    space.map(GpuAddress(FIRST_VA + 2 * MiB), [(4 * MiB, 2 * MiB)], system=False)
    space.flush()
    assert memory.writes == writes + 1


def test_tables_run_out():
    space, _ = make(2, (0, 5 * PAGE))
    space.map(GpuAddress(FIRST_VA), [(0, PAGE)], system=False)
    with pytest.raises(DoesNotFit, match="page tables"):
        space.map(GpuAddress(FIRST_VA + (1 << 30)), [(0, PAGE)], system=False)


@pytest.mark.parametrize(("version", "levels"), [(2, 3), (3, 4)])
def test_the_path_that_the_firmware_shares(version: int, levels: int):
    space, memory = make(version)
    path = space.path(GpuAddress(FIRST_VA), 29)
    assert len(path) == levels
    assert path[0].address == space.root
    space.flush()
    assert memory.writes
