"""Page-table entries against those that a hardware-proven driver writes, and the bulk form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tinygrad.runtime.autogen.nv_regs as registers
from hypothesis import given
from hypothesis import strategies as st
from tinygrad.runtime.support.memory import AddrSpace
from tinygrad.runtime.support.nv.nvdev import NVPageTableEntry, NVReg

from exosuit.silicon.nvidia.paging import EVERYTHING, FORMATS, HUGE_PAGE, MmuInvalidate


class TheirTable:
    """Their table at one level, over a list of quadwords."""

    def __init__(self, version: int, level: int) -> None:
        described = registers.dev_mmu.gh100 if version == 3 else registers.dev_mmu.tu102
        names = (f"NV_MMU_VER{version}_{part}" for part in ("PTE", "PDE", "DUAL_PDE"))
        pte, pde, dual = (NVReg(None, *described[name]) for name in names)
        self.quads = [0] * 1024
        vram: Any = SimpleNamespace(view=self._view)
        memory = SimpleNamespace(level_cnt=len(FORMATS[version].shifts))
        device = SimpleNamespace(
            vram=vram, mm=memory, mmu_ver=version, pte_t=pte, pde_t=pde, dual_pde_t=dual
        )
        self.entries: Any = NVPageTableEntry(device, 0, level)

    def _view(self, *_: int, fmt: str) -> list[int]:
        return self.quads


@pytest.mark.parametrize("version", [2, 3])
@given(frame=st.integers(0, (1 << 25) - 1), sysframe=st.integers(0, (1 << 40) - 1))
def test_entries_are_those_of_the_other_driver(version: int, frame: int, sysframe: int):
    ours = FORMATS[version]
    for level in range(len(ours.shifts) - 1):
        theirs = TheirTable(version, level)
        theirs.entries.set_entry(1, frame << 12, table=True)
        size = ours.entry_bytes(level)
        expected = b"".join(quad.to_bytes(8, "little") for quad in theirs.quads[:4])
        assert ours.pointer(frame << 12, level).encode() == expected[size : 2 * size]
    theirs = TheirTable(version, ours.last)
    theirs.entries.set_entry(0, frame << 12, uncached=False)
    theirs.entries.set_entry(1, sysframe << 12, aspace=AddrSpace.SYS, uncached=True)
    assert theirs.quads[0] == ours.page(frame << 12)
    assert theirs.quads[1] == ours.page(sysframe << 12, system=True)


@pytest.mark.parametrize("version", [2, 3])
def test_addresses_are_cut_as_by_the_other_driver(version: int):
    ours = FORMATS[version]
    address = 0x12_3456_789A_B000
    below = [2, 9, 9, 8, 9] if version == 2 else [1, 9, 9, 9, 8, 9]
    for level, width in enumerate(below):
        assert ours.index(address, level) == address >> ours.shifts[level] & (1 << width) - 1
    assert ours.reach == (1 << 49 if version == 2 else 1 << 57)


@given(st.sampled_from([2, 3]), st.integers(0, 1 << 12), st.integers(0, 600), st.booleans())
def test_the_bulk_form_is_the_scalar_form(version: int, frame: int, count: int, system: bool):
    ours = FORMATS[version]
    for level, size in ((ours.last, 4096), (ours.last - 1, HUGE_PAGE)):
        first = frame * size
        made = ours.pages_of(ours.page(first, system=system), count, level)
        assert list(made) == [ours.page(first + k * size, system=system) for k in range(count)]


def test_everything_is_forgotten_as_by_the_other_driver():
    assert EVERYTHING == 0x8000_0043
    described = registers.dev_vm.tu102
    for name, register in (("", "INVALIDATE"), ("_PDB", "PDB"), ("_UPPER_PDB", "UPPER_PDB")):
        base, offset, _ = described[f"NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE{name}"]
        assert base == MmuInvalidate.BASE
        assert MmuInvalidate.REGISTERS[register].offset == offset
