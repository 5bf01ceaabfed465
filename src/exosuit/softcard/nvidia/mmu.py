"""Page tables as the card reads them: everything that one address space maps.

A `Translations` is what the TLB would hold if it had seen the whole space at one moment: pages, as
runs that lie contiguous in both spaces and in this process. It is read from the root in one go,
because programs reach memory by windows and because an invalidation drops everything anyway; see
`tlb`. Entries are believed as hardware believes them; what cannot be meant is noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from exosuit.silicon.nvidia.paging import (
    BIG_PAGE,
    PAGE,
    DualPde2,
    Format,
    Kind,
    PageAperture,
    TableAperture,
)
from exosuit.softcard.host import HostFault
from exosuit.softcard.memory import host_address
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.registers import Refuse

Words = NDArray[np.uint64]
MOST_TABLES = 1 << 15
"""So many tables are read of one space, 64 GiB in small pages: beyond that they are a loop."""


class Place(Enum):
    """What is behind a run of pages."""

    LOCAL = "local memory"
    HOST = "host memory"
    NOWHERE = "a bus address where nothing is mapped"


@dataclass(slots=True)
class Run:
    """Pages that lie side by side.

    physical  offset in local memory, or bus address
    host      address of the first byte in this process; 0 where there is nothing
    """

    start: int
    size: int
    physical: int
    host: int
    place: Place
    writable: bool

    @property
    def end(self) -> int:
        return self.start + self.size


class Walker:
    """Reads tables of one version in local memory."""

    def __init__(self, format: Format, memory: memoryview, bus: Bus, refuse: Refuse) -> None:
        self._format = format
        self._memory = memory
        self._base = host_address(memory)
        self._bus = bus
        self._refuse = refuse
        self._left = 0
        pte = format.pte.FIELDS
        self._aperture = np.uint64(pte["aperture"].low)
        self._read_only = np.uint64(pte["read_only"].low)
        self._kind = pte["kind"]
        self._frame = pte["frame"]

    def read(self, root: int) -> list[Run]:
        """Everything that the tables below `root` map, in order of addresses."""
        self._left = MOST_TABLES
        return join(self._table(root, 0, 0))

    def _table(self, at: int, level: int, base: int) -> Iterator[Run]:
        shift = self._format.shifts[level]
        words = self._words(at, self._format.entries(level) * self._format.entry_bytes(level))
        if words is None:
            self._refuse(f"a page table at {at:#x}, outside local memory, for {base:#x}")
            return
        self._left -= 1
        if self._left < 0:
            if self._left == -1:
                self._refuse(f"more than {MOST_TABLES} page tables below one root")
            return
        if level == self._format.last:
            yield from self._pages(words, base, shift)
            return
        dual = level == self._format.last - 1
        low = words[::2] if dual else words
        high = words[1::2] if dual else words
        for index in np.flatnonzero(low | high).tolist():
            start = base + (index << shift)
            first = int(low[index])
            if first & 1:
                if shift not in self._format.pages:
                    self._refuse(f"a page of {1 << shift:#x} bytes at {start:#x}")
                    continue
                yield from self._pages(low[index : index + 1], start, shift)
            elif dual:
                yield from self._both(first | int(high[index]) << 64, level, start)
            else:
                entry = self._format.pde(first)
                if entry.aperture == TableAperture.INVALID:
                    continue
                if entry.aperture != TableAperture.VIDEO:
                    self._refuse(f"a page table in host memory for {start:#x}")
                    continue
                yield from self._table(entry.frame * PAGE, level + 1, start)

    def _both(self, value: int, level: int, start: int) -> Iterator[Run]:
        """A table of big pages, then one of small pages: a valid big page hides small ones."""
        entry = self._format.dual(value)
        big: list[Run] = []
        if entry.big_aperture != TableAperture.INVALID:
            unit = 10 if isinstance(entry, DualPde2) else 8
            words = self._words(entry.big_frame << unit, 8 * (1 << 21) // BIG_PAGE)
            if entry.big_aperture != TableAperture.VIDEO or words is None:
                self._refuse(f"a table of big pages outside local memory for {start:#x}")
            else:
                big = list(self._pages(words, start, BIG_PAGE.bit_length() - 1))
        small: list[Run] = []
        if entry.aperture == TableAperture.VIDEO:
            small = list(self._table(entry.frame * PAGE, level + 1, start))
        elif entry.aperture != TableAperture.INVALID:
            self._refuse(f"a page table in host memory for {start:#x}")
        kept = [piece for run in small for piece in _beside(run, big)]
        if sum(run.size for run in kept) < sum(run.size for run in small):
            self._refuse(f"small pages under big ones at {start:#x}")
        yield from sorted([*big, *kept], key=lambda run: run.start)

    def _pages(self, words: Words, base: int, shift: int) -> Iterator[Run]:
        one = np.uint64(1)
        valid = np.flatnonzero(words & one)
        if not len(valid):
            return
        entries = words[valid]
        apertures = entries >> self._aperture & np.uint64(3)
        read_only = entries >> self._read_only & one
        frames = entries >> np.uint64(self._frame.low) & np.uint64(self._frame.maximum)
        kinds = entries >> np.uint64(self._kind.low) & np.uint64(self._kind.maximum)
        strange = np.flatnonzero(~np.isin(kinds, [Kind.PITCH, Kind.GENERIC_MEMORY]))
        if len(strange):
            where = base + (int(valid[strange[0]]) << shift)
            self._refuse(f"a page of kind {int(kinds[strange[0]]):#x} at {where:#x}")
        step = np.uint64(1 << shift - 12)
        crooked = np.flatnonzero(frames & (step - one))
        if len(crooked):
            where = base + (int(valid[crooked[0]]) << shift)
            self._refuse(f"a page of {1 << shift:#x} bytes at {where:#x} that is not aligned")
            frames &= ~(step - one)
        follows = (
            (np.diff(valid) == 1)
            & (np.diff(frames) == step)
            & (np.diff(apertures) == 0)
            & (np.diff(read_only) == 0)
        )
        cuts = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(valid)]
        for begin, end in pairwise(cuts):
            start = base + (int(valid[begin]) << shift)
            physical = int(frames[begin]) * PAGE
            size = (end - begin) << shift
            yield from self._run(
                start, size, physical, int(apertures[begin]), not int(read_only[begin])
            )

    def _run(
        self, start: int, size: int, physical: int, aperture: int, writable: bool
    ) -> Iterator[Run]:
        if aperture == PageAperture.VIDEO:
            if physical + size > len(self._memory):
                self._refuse(f"an entry for {physical:#x}, past the end of local memory")
                yield Run(start, size, physical, 0, Place.NOWHERE, writable)
            else:
                yield Run(start, size, physical, self._base + physical, Place.LOCAL, writable)
            return
        if aperture == PageAperture.PEER:
            self._refuse(f"a page of a peer's memory at {start:#x}")
            yield Run(start, size, physical, 0, Place.NOWHERE, writable)
            return
        try:
            pieces = self._bus.pieces(physical, size)
        except HostFault:
            if size == PAGE:
                yield Run(start, size, physical, 0, Place.NOWHERE, writable)
                return
            for at in range(0, size, PAGE):
                yield from self._run(start + at, PAGE, physical + at, aperture, writable)
            return
        for host, length in pieces:
            yield Run(start, length, physical, host, Place.HOST, writable)
            start, physical = start + length, physical + length

    def _words(self, at: int, size: int) -> Words | None:
        if at % 8 or at + size > len(self._memory):
            return None
        return np.frombuffer(self._memory, np.uint64, size // 8, at)


def _beside(run: Run, others: list[Run]) -> Iterator[Run]:
    """What of a run lies under none of the others, which are in order."""
    start = run.start
    for other in [*others, Run(run.end, 0, 0, 0, Place.NOWHERE, writable=False)]:
        end = min(max(other.start, start), run.end)
        if start < end:
            offset = start - run.start
            host = run.host + offset if run.host else 0
            yield Run(start, end - start, run.physical + offset, host, run.place, run.writable)
        start = max(start, min(other.end, run.end))


def join(runs: Iterator[Run]) -> list[Run]:
    """Neighbours that go on in every sense become one."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.end == run.start
            and last.place is run.place
            and last.writable == run.writable
            and last.physical + last.size == run.physical
            and (run.place is Place.NOWHERE or last.host + last.size == run.host)
        ):
            last.size += run.size
        else:
            joined.append(run)
    return joined
