"""Page tables of a card: shadows of them here, in host memory, and what the card does not know yet.

Maps and unmaps change shadows; what changed is taken out in few large pieces, deeper tables first,
since a pointer must never lead to a table that is not there yet. What entries look like is the
family's business; here an entry is one or two words of 64 bits, and zero means that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.ranges import Ranges
from exosuit.errors import DoesNotFit
from exosuit.units import VramAddress, human_bytes

TABLE_BYTES = 4096
"""What every table takes, on every family that we drive."""


@dataclass(frozen=True)
class Level:
    """Tables of one level.

    shift    what one entry covers, as a power of two
    entries  of one table
    words    of 64 bits in an entry
    """

    shift: int
    entries: int = 512
    words: int = 1


class Table:
    """The shadow of one table; which of its words the card does not know yet."""

    def __init__(self, address: VramAddress, level: int, words: int) -> None:
        self.address = address
        self.level = level
        self.entries: NDArray[np.uint64] = np.zeros(words, np.uint64)
        self.children: dict[int, Table] = {}
        self.used = 0
        self.first, self.end = 0, words  # a new table is written whole

    def set(self, first: int, values: NDArray[np.uint64]) -> None:
        end = first + len(values)
        self.used -= int(np.count_nonzero(self.entries[first:end]))
        self.entries[first:end] = values
        self.used += int(np.count_nonzero(values))
        self.first, self.end = min(self.first, first), max(self.end, end)


class PageTables:
    """The tables below one root.

    root     where the root lies in local memory
    levels   from the root's on
    pointer  words of the entry, at a level, for the table at an address
    tables   local memory that tables are made in, within the host's window

    Addresses are counted from the first that the root covers.
    """

    def __init__(
        self,
        root: VramAddress,
        levels: Sequence[Level],
        pointer: Callable[[int, int], Sequence[int]],
        tables: Ranges,
    ) -> None:
        self._levels = tuple(levels)
        self._pointer = pointer
        self._tables = tables
        self._table_bytes = tables.free_bytes
        self.root = Table(root, 0, levels[0].entries * levels[0].words)
        self._dirty: dict[int, Table] = {id(self.root): self.root}

    @property
    def is_dirty(self) -> bool:
        """Whether the card does not know of all changes."""
        return bool(self._dirty)

    def set(self, at: int, level: int, values: NDArray[np.uint64]) -> None:
        """Write entries of one table of `level`, from that which covers `at` on."""
        first = self._index(at, level) * self._levels[level].words
        self._write(self.path(at, level)[-1], first, values)

    def path(self, at: int, level: int) -> list[Table]:
        """The tables that cover an address, the root first, down to that of `level`.

        Tables that are not there are made. Raises DoesNotFit where there is no room for them.
        """
        table = self.root
        found = [table]
        for above in range(level):
            slot = self._index(at, above)
            child = table.children.get(slot)
            if child is None:
                child = self._make(above + 1)
                table.children[slot] = child
                entry = np.array(self._pointer(child.address, above), np.uint64)
                self._write(table, slot * self._levels[above].words, entry)
            table = child
            found.append(table)
        return found

    def clear(self, start: int, end: int) -> None:
        """Forget what covers [start, end); tables that become empty are given back."""
        self._clear(self.root, start, end)

    def take_changes(self) -> list[tuple[VramAddress, bytes]]:
        """What the card must be written, in order; afterwards nothing is left to write."""
        changed = sorted(self._dirty.values(), key=lambda table: (-table.level, table.address))
        waiting: list[tuple[VramAddress, bytes]] = []
        for table in changed:
            data = table.entries[table.first : table.end].tobytes()
            at = VramAddress(table.address + 8 * table.first)
            if waiting and waiting[-1][0] + len(waiting[-1][1]) == at:
                waiting[-1] = (waiting[-1][0], waiting[-1][1] + data)
            else:
                waiting.append((at, data))
            table.first, table.end = len(table.entries), 0
        self._dirty.clear()
        return waiting

    def _index(self, at: int, level: int) -> int:
        kind = self._levels[level]
        return at >> kind.shift & kind.entries - 1

    def _make(self, level: int) -> Table:
        address = self._tables.take(TABLE_BYTES, TABLE_BYTES)
        if address is None:
            raise DoesNotFit(
                "no more page tables fit on the card",
                cause=f"{human_bytes(self._table_bytes)} are set aside for them",
                next="use a smaller model or --context",
            )
        kind = self._levels[level]
        table = Table(VramAddress(address), level, kind.entries * kind.words)
        self._dirty[id(table)] = table
        return table

    def _write(self, table: Table, first: int, values: NDArray[np.uint64]) -> None:
        table.set(first, values)
        self._dirty[id(table)] = table

    def _clear(self, table: Table, start: int, end: int) -> None:
        kind = self._levels[table.level]
        step = 1 << kind.shift
        begin = start // (step * kind.entries) * (step * kind.entries)
        first, last = (start - begin) // step, (end - 1 - begin) // step
        if table.level == len(self._levels) - 1:
            words = (last - first + 1) * kind.words
            self._write(table, first * kind.words, np.zeros(words, np.uint64))
            return
        nothing = np.zeros(kind.words, np.uint64)
        for slot in range(first, last + 1):
            child = table.children.get(slot)
            if child is None:
                self._write(table, slot * kind.words, nothing)
                continue
            low = begin + slot * step
            self._clear(child, max(start, low), min(end, low + step))
            if child.used == 0:
                del table.children[slot]
                self._dirty.pop(id(child), None)
                self._tables.give(child.address, TABLE_BYTES)
                self._write(table, slot * kind.words, nothing)
