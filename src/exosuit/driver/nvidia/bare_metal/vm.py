"""Virtual memory of one card: page tables of version 2 or 3, written through the window.

Maps and unmaps change shadows; `flush` writes what changed and lets the card forget its
translations, once for however many maps there were. Nothing may be submitted before that.

Sources: open-gpu-kernel-modules `dev_mmu.h`, `dev_vm.h`, `kern_gmmu_tu102.c` (the invalidate is
polled until it has been done; tinygrad does not wait).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from exosuit.clock import Clock
from exosuit.driver.boot import poll
from exosuit.driver.memory import LARGE_PAGE
from exosuit.driver.nvidia.bare_metal.vram import Vram
from exosuit.driver.page_tables import TABLE_BYTES, Level, PageTables, Table
from exosuit.driver.ranges import Ranges
from exosuit.silicon.nvidia.paging import EVERYTHING, PAGE, Format, MmuInvalidate
from exosuit.units import GpuAddress, VramAddress

_INVALIDATE_S = 1.0


class AddressSpace:
    """What virtual addresses mean on one card. Implements `memory.AddressSpace`.

    tables  local memory that tables are made in, within the host's window
    """

    def __init__(
        self,
        format: Format,
        vram: Vram,
        mmu: MmuInvalidate,
        tables: Ranges,
        clock: Clock,
        check_alive: Callable[[], None],
    ) -> None:
        self._format = format
        self._vram = vram
        self._mmu = mmu
        self._clock = clock
        self._check_alive = check_alive
        root = tables.take(TABLE_BYTES, TABLE_BYTES)
        assert root is not None
        self.root = VramAddress(root)
        self._large_level = format.last - 1
        self._tables = PageTables(self.root, _levels(format), self._pointer, tables)

    def map(self, virtual: GpuAddress, pieces: Iterable[tuple[int, int]], *, system: bool) -> None:
        """Map `pieces` one after the other from `virtual` on.

        pieces  (address, size) in local memory, or on the bus with `system`; whole pages
        """
        base = int(self._format.page(0, system=system))
        at = int(virtual)
        for physical, size in pieces:
            while size > 0:
                is_large = not (at | physical) % LARGE_PAGE and size >= LARGE_PAGE
                level = self._large_level if is_large else self._format.last
                step = 1 << self._format.shifts[level]
                span = 1 << self._format.shifts[level - 1]
                run = min(size, span - at % span) // step * step  # within one table
                self._tables.set(at, level, self._entries(base, physical, run // step, level))
                at += run
                physical += run
                size -= run

    def unmap(self, virtual: GpuAddress, size: int) -> None:
        """Forget what was mapped from `virtual` on; tables that become empty are given back."""
        self._tables.clear(int(virtual), int(virtual) + size)

    def path(self, virtual: GpuAddress, shift: int) -> list[Table]:
        """The tables that cover an address, down to that whose entries cover 1 << `shift`."""
        return self._tables.path(virtual, self._format.shifts.index(shift))

    def flush(self) -> None:
        """Let the card know of every map and unmap so far."""
        if not self._tables.is_dirty:
            return
        for at, data in self._tables.take_changes():
            self._vram.write(at, data)
        self._mmu.INVALIDATE.write(EVERYTHING)
        poll(
            self._mmu.INVALIDATE.read, lambda seen: not seen.trigger, self._clock, _INVALIDATE_S,
            "the forgetting of its translations", self._check_alive,
        )  # fmt: skip

    def _entries(self, base: int, physical: int, count: int, level: int) -> NDArray[np.uint64]:
        """Words of `count` entries of a level for memory that is contiguous."""
        frame = self._format.pte.FIELDS["frame"].low
        first = base + ((physical // PAGE) << frame)
        step = 1 << (self._format.shifts[level] - self._format.shifts[-1] + frame)
        values = np.arange(count, dtype=np.uint64) * np.uint64(step) + np.uint64(first)
        words = self._format.entry_bytes(level) // 8
        if words == 1:
            return values
        whole = np.zeros(count * words, np.uint64)
        whole[::words] = values
        return whole

    def _pointer(self, address: int, level: int) -> tuple[int, ...]:
        entry = int(self._format.pointer(address, level))
        words = self._format.entry_bytes(level) // 8
        return tuple(entry >> 64 * word & (1 << 64) - 1 for word in range(words))


def _levels(format: Format) -> list[Level]:
    found: list[Level] = []
    for level, shift in enumerate(format.shifts):
        entries = format.root if level == 0 else 1 << format.shifts[level - 1] - shift
        found.append(Level(shift, entries, format.entry_bytes(level) // 8))
    return found
