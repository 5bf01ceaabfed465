"""The translation cache of the graphics hub, as an array that translated programs index.

One entry per 4 KiB page from `base` on: the host address of the page and what may be done with it,
0 for a page that is not cached. It stays as stale as hardware's until an invalidation engine is
asked; only pages of host memory that go away are dropped at once, as an IOMMU would refuse them.
Engines of the card read, write and copy through the same cache.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from exosuit.link.function import Data
from exosuit.silicon.amd.hub import Client
from exosuit.silicon.amd.paging import ENTRIES, PAGE
from exosuit.softcard.amd.hub import Hub
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.amd.walker import EXECUTE, READ, WRITE, Run
from exosuit.softcard.memory import host_address, sparse_memory
from exosuit.softcard.timeline import Timeline
from exosuit.units import GiB

BASE = 0x2000_0000_0000
"""First address covered: where drivers of these cards put their addresses."""
COVERED = 64 * GiB
"""Beyond that every access is walked anew."""
_FLAGS = PAGE - 1


class Tlb:
    """Translations of VMID 0, shared by programs, the command processor and the copy engine.

    Threads that run programs call `miss` at the same time; one lock keeps them apart.
    """

    base = BASE
    pages = COVERED // PAGE

    def __init__(self, memory: LocalMemory) -> None:
        self._memory = memory
        self._hub: Hub | None = None
        self._lock = threading.Lock()
        self._touched: set[int] = set()
        self.entries: NDArray[np.uint64] = np.frombuffer(sparse_memory(8 * self.pages), np.uint64)

    def attach(self, hub: Hub) -> None:
        """The hub whose page tables are walked."""
        self._hub = hub

    @property
    def faults(self) -> int:
        """So many accesses found nothing since power-on."""
        return self._hub.faults if self._hub else 0

    def miss(self, address: int, access: int) -> int:
        """Walk for a program: cache and return the entry, or that of a dummy page."""
        client = Client.SQC_INSTRUCTION if access & EXECUTE else Client.TCP
        return self._fill(address, access, client)

    def flush(self) -> None:
        """Forget everything, as an invalidation engine does."""
        with self._lock:
            for chunk in self._touched:
                self.entries[chunk * ENTRIES : (chunk + 1) * ENTRIES] = 0
            self._touched.clear()

    def forget_host(self, view: memoryview) -> None:
        """Drop pages that lie in `view`, which is about to be unmapped."""
        low = host_address(view)
        high = low + len(view)
        with self._lock:
            for chunk in self._touched:
                entries = self.entries[chunk * ENTRIES : (chunk + 1) * ENTRIES]
                entries[(entries >= low) & (entries < high)] = 0

    def runs(self, address: int, size: int, access: int, client: Client) -> list[tuple[int, int]]:
        """Host addresses and lengths of the pieces of a range."""
        if size <= 0:
            return []
        first, last = address // PAGE, (address + size - 1) // PAGE
        if last == first:
            return [((self._lookup(address, access, client) & ~_FLAGS) + address % PAGE, size)]
        found = self._lookup_all(first, last - first + 1, access, client)
        hosts = found & ~np.uint64(_FLAGS)
        breaks = np.flatnonzero(np.diff(hosts) != PAGE) + 1
        pieces: list[tuple[int, int]] = []
        for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(found)], strict=True):
            host, length = int(hosts[begin]), (end - begin) * PAGE
            if begin == 0:
                host += address % PAGE
                length -= address % PAGE
            if end == len(found):
                length -= (last + 1) * PAGE - (address + size)
            pieces.append((host, length))
        return pieces

    def read(self, address: int, size: int, client: Client, timeline: Timeline) -> bytes:
        """Bytes at a virtual address; the dummy page's where there is nothing."""
        pieces = self.runs(address, size, READ, client)
        self._charge(pieces, timeline.read_host)
        return b"".join(ctypes.string_at(host, length) for host, length in pieces)

    def write(self, address: int, data: Data, client: Client, timeline: Timeline) -> None:
        """Write at a virtual address; into the dummy page where there is nothing."""
        source = bytes(data)
        pieces = self.runs(address, len(source), WRITE, client)
        self._charge(pieces, timeline.write_host)
        done = 0
        for host, length in pieces:
            ctypes.memmove(host, source[done : done + length], length)
            done += length

    def clear(self, address: int, size: int, client: Client, timeline: Timeline) -> None:
        """Zeros at a virtual address, without touching pages of local memory."""
        pieces = self.runs(address, size, WRITE, client)
        self._charge(pieces, timeline.write_host)
        for host, length in pieces:
            if self._is_local(host):
                self._memory.clear(host - self._memory.host_base, length)
            else:
                ctypes.memset(host, 0, length)

    def copy(self, source: int, target: int, size: int, client: Client, timeline: Timeline) -> None:
        """Move bytes from one virtual address to another."""
        inward = self.runs(source, size, READ, client)
        outward = self.runs(target, size, WRITE, client)
        self._charge(inward, timeline.read_host)
        self._charge(outward, timeline.write_host)
        pairs = iter(inward)
        host, left = 0, 0
        for to, length in outward:
            while length:
                if not left:
                    host, left = next(pairs)
                piece = min(left, length)
                ctypes.memmove(to, host, piece)
                to, length, host, left = to + piece, length - piece, host + piece, left - piece

    def _charge(self, pieces: list[tuple[int, int]], spend: Callable[[int], None]) -> None:
        crossing = sum(length for host, length in pieces if not self._is_local(host))
        if crossing:
            spend(crossing)

    def _is_local(self, host: int) -> bool:
        return 0 <= host - self._memory.host_base < self._memory.size

    def _lookup(self, address: int, access: int, client: Client) -> int:
        page = (address - self.base) // PAGE
        if 0 <= page < self.pages:
            entry = int(self.entries[page])
            if entry & access == access:
                return entry
        return self._fill(address, access, client)

    def _lookup_all(
        self, first: int, count: int, access: int, client: Client
    ) -> NDArray[np.uint64]:
        """Entries of consecutive pages; those that are not cached are walked one after the other,
        and may bring their neighbours in.
        """
        page = first - self.base // PAGE
        if page < 0 or page + count > self.pages:
            pages = range(first, first + count)
            return np.array([self._lookup(p * PAGE, access, client) for p in pages], np.uint64)
        bits = np.uint64(access)
        found = self.entries[page : page + count].copy()
        for index in np.flatnonzero(found & bits != bits).tolist():
            found[index] = self._lookup((first + index) * PAGE, access, client)
        return found

    def _fill(self, address: int, access: int, client: Client) -> int:
        assert self._hub is not None
        with self._lock:
            run = self._hub.translate(address, access, client)
            if run is None:
                return self._hub.dummy_page() | READ | WRITE | EXECUTE
            entry = run.hosts[address // PAGE - run.first] | run.permissions
            first = run.first - self.base // PAGE
            if first >= 0 and first + len(run.hosts) <= self.pages:
                self._keep(first, run)
            return entry

    def _keep(self, first: int, run: Run) -> None:
        count = len(run.hosts)
        hosts = np.array(run.hosts, np.uint64)
        self.entries[first : first + count] = hosts | np.uint64(run.permissions)
        self._touched.update(range(first // ENTRIES, (first + count - 1) // ENTRIES + 1))
