"""Virtual memory of one card: page tables kept here, written there in bulk.

Maps and unmaps change shadows; `flush` writes what changed in few large writes, makes it visible
and lets the card forget its translations, once for however many maps there were. Nothing may be
submitted before that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from exosuit.driver.amd import layout
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.hubs import VA_BASE, Hubs
from exosuit.driver.memory import LARGE_PAGE
from exosuit.driver.page_tables import Level, PageTables
from exosuit.driver.ranges import Ranges
from exosuit.silicon.amd.paging import PAGE, SHIFTS, Pte, largest_fragment, leaf, pointer
from exosuit.units import GpuAddress, VramAddress

_LARGE_LEVEL, _SMALL_LEVEL = 2, 3
_MOST_FRAGMENT = SHIFTS[1] - SHIFTS[3]  # one table of large pages


class AddressSpace:
    """What virtual addresses mean on one card.

    kind    entries of the card's generation
    tables  local memory that tables are made in, within the host's window
    """

    def __init__(self, memory: HostData, hubs: Hubs, kind: type[Pte], tables: Ranges) -> None:
        self._memory = memory
        self._hubs = hubs
        self._kind = kind
        self._tables = PageTables(
            VramAddress(layout.ROOT_TABLE),
            [Level(shift) for shift in SHIFTS],
            lambda address, level: (pointer(kind, address),),
            tables,
        )

    def map(self, virtual: GpuAddress, pieces: Iterable[tuple[int, int]], *, system: bool) -> None:
        """Map `pieces` one after the other from `virtual` on.

        pieces  (address, size) in local memory, or on the bus with `system`; whole pages
        """
        base = int(leaf(self._kind, 0, _SMALL_LEVEL, system=system))
        large = int(leaf(self._kind, 0, _LARGE_LEVEL, system=system))
        at = int(virtual)
        for physical, size in pieces:
            while size > 0:
                run = min(largest_fragment(at - VA_BASE, physical, size), _MOST_FRAGMENT)
                is_large = PAGE << run >= LARGE_PAGE
                level = _LARGE_LEVEL if is_large else _SMALL_LEVEL
                step = 1 << SHIFTS[level]
                count = (PAGE << run) // step
                first = (large if is_large else base) + physical
                first |= self._kind(fragment=run)
                values = np.arange(count, dtype=np.uint64) * np.uint64(step) + np.uint64(first)
                self._tables.set(at - VA_BASE, level, values)
                at += PAGE << run
                physical += PAGE << run
                size -= PAGE << run

    def unmap(self, virtual: GpuAddress, size: int) -> None:
        """Forget what was mapped from `virtual` on; tables that become empty are given back."""
        self._tables.clear(int(virtual) - VA_BASE, int(virtual) - VA_BASE + size)

    def flush(self) -> None:
        """Let the card know of every map and unmap so far."""
        if not self._tables.is_dirty:
            return
        for at, data in self._tables.take_changes():
            self._memory.write(at, data)
        self._memory.flush()
        self._hubs.invalidate()
