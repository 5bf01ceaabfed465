"""Virtual memory of one card: page tables kept here, written there in bulk.

Each table has a shadow in host memory. Maps and unmaps change shadows; `flush` writes what changed
in few large writes, makes it visible and lets the card forget its translations, once for however
many maps there were. Nothing may be submitted before that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.amd import layout
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.hubs import VA_BASE, Hubs
from exosuit.driver.memory import LARGE_PAGE
from exosuit.driver.ranges import Ranges
from exosuit.errors import DoesNotFit
from exosuit.silicon.amd.paging import (
    ENTRIES,
    LEVELS,
    PAGE,
    SHIFTS,
    TABLE_BYTES,
    Pte,
    index,
    largest_fragment,
    leaf,
    pointer,
)
from exosuit.units import GpuAddress, VramAddress

_LARGE_LEVEL, _SMALL_LEVEL = 2, 3
_MOST_FRAGMENT = SHIFTS[1] - SHIFTS[3]  # one table of large pages


class _Table:
    """The shadow of one table; which of its entries the card does not know yet."""

    def __init__(self, address: VramAddress, level: int) -> None:
        self.address = address
        self.level = level
        self.entries: NDArray[np.uint64] = np.zeros(ENTRIES, np.uint64)
        self.children: dict[int, _Table] = {}
        self.used = 0
        self.first, self.end = 0, ENTRIES  # a new table is written whole

    def set(self, first: int, values: NDArray[np.uint64]) -> None:
        end = first + len(values)
        self.used -= int(np.count_nonzero(self.entries[first:end]))
        self.entries[first:end] = values
        self.used += int(np.count_nonzero(values))
        self.first, self.end = min(self.first, first), max(self.end, end)


class AddressSpace:
    """What virtual addresses mean on one card.

    kind    entries of the card's generation
    tables  local memory that tables are made in, within the host's window
    """

    def __init__(self, memory: HostData, hubs: Hubs, kind: type[Pte], tables: Ranges) -> None:
        self._memory = memory
        self._hubs = hubs
        self._kind = kind
        self._tables = tables
        self._root = _Table(VramAddress(layout.ROOT_TABLE), 0)
        self._dirty: dict[int, _Table] = {id(self._root): self._root}

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
                table = self._descend(at, level)
                self._set(table, index(at - VA_BASE, level), values)
                at += PAGE << run
                physical += PAGE << run
                size -= PAGE << run

    def unmap(self, virtual: GpuAddress, size: int) -> None:
        """Forget what was mapped from `virtual` on; tables that become empty are given back."""
        self._clear(self._root, int(virtual) - VA_BASE, int(virtual) - VA_BASE + size)

    def flush(self) -> None:
        """Let the card know of every map and unmap so far."""
        if not self._dirty:
            return
        # Deeper tables first: a pointer must never lead to a table that is not there yet.
        changed = sorted(self._dirty.values(), key=lambda table: (-table.level, table.address))
        waiting: list[tuple[int, bytes]] = []
        for table in changed:
            data = table.entries[table.first : table.end].tobytes()
            at = table.address + 8 * table.first
            if waiting and waiting[-1][0] + len(waiting[-1][1]) == at:
                waiting[-1] = (waiting[-1][0], waiting[-1][1] + data)
            else:
                waiting.append((at, data))
            table.first, table.end = ENTRIES, 0
        for at, data in waiting:
            self._memory.write(VramAddress(at), data)
        self._dirty.clear()
        self._memory.flush()
        self._hubs.invalidate()

    def _descend(self, at: int, level: int) -> _Table:
        """The table of `level` that covers a virtual address, made where there is none."""
        table = self._root
        for above in range(level):
            slot = index(at - VA_BASE, above)
            child = table.children.get(slot)
            if child is None:
                address = self._tables.take(TABLE_BYTES, TABLE_BYTES)
                if address is None:
                    raise DoesNotFit(
                        "no more page tables fit on the card",
                        cause=f"{layout.TABLES_BYTES >> 20} MiB are set aside for them",
                        next="use a smaller model or --context",
                    )
                child = _Table(VramAddress(address), above + 1)
                table.children[slot] = child
                self._dirty[id(child)] = child
                self._set(table, slot, np.array([pointer(self._kind, address)], np.uint64))
            table = child
        return table

    def _set(self, table: _Table, first: int, values: NDArray[np.uint64]) -> None:
        table.set(first, values)
        self._dirty[id(table)] = table

    def _clear(self, table: _Table, start: int, end: int) -> None:
        """Clear the entries of `table` that cover [start, end), offsets from VA_BASE."""
        step = 1 << SHIFTS[table.level]
        begin = start // (step * ENTRIES) * (step * ENTRIES)
        first, last = (start - begin) // step, (end - 1 - begin) // step
        if table.level == LEVELS - 1:
            self._set(table, first, np.zeros(last - first + 1, np.uint64))
            return
        for slot in range(first, last + 1):
            child = table.children.get(slot)
            if child is None:
                self._set(table, slot, np.zeros(1, np.uint64))
                continue
            low = begin + slot * step
            self._clear(child, max(start, low), min(end, low + step))
            if child.used == 0:
                del table.children[slot]
                self._dirty.pop(id(child), None)
                self._tables.give(child.address, TABLE_BYTES)
                self._set(table, slot, np.zeros(1, np.uint64))
