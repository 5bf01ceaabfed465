"""Page tables as the card reads them: from a virtual address to where the bytes are.

A walk believes what it finds, as hardware does: an entry above the last level without the leaf's
mark is a pointer, a fragment covers all its pages whatever their own entries say. What cannot be
meant is noted besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exosuit.silicon.amd.hub import ContextControl, PageTableBase, WalkerError
from exosuit.silicon.amd.paging import (
    ENTRIES,
    LEVELS,
    PAGE,
    SHIFTS,
    TABLE_BYTES,
    Pte,
    Pte12,
    index,
)
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.host import HostFault, HostMemory
from exosuit.softcard.memory import host_address
from exosuit.softcard.registers import Refuse

READ, WRITE, EXECUTE = 1, 2, 4
"""Accesses, and permissions of a cached page."""
_FRAGMENT = Pte.FIELDS["fragment"].mask


@dataclass(frozen=True, slots=True)
class Run:
    """Pages that one entry maps, or the 2 MiB of them around the address that was asked for.

    first      virtual page number
    hosts      host address of each page
    """

    first: int
    hosts: Sequence[int]
    permissions: int
    system: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is nothing at an address.

    permissions  bits of valid, read, write, execute that were missing
    """

    error: WalkerError
    permissions: int
    mapping: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What a hub's CONTEXT0 registers say."""

    control: ContextControl
    base: PageTableBase
    start: int
    end: int


class Walker:
    """Reads page tables of one generation in local memory.

    dma_fails  whether the host refuses the access to its memory that is about to be made
    """

    def __init__(
        self,
        kind: type[Pte],
        memory: LocalMemory,
        host: HostMemory,
        refuse: Refuse,
        dma_fails: Callable[[], bool],
    ) -> None:
        self._kind = kind
        self._memory = memory
        self._host = host
        self._refuse = refuse
        self._dma_fails = dma_fails

    def walk(self, context: Context, address: int, access: int, *, dma: bool) -> Run | Failure:
        """Where the page at `address` is.

        access  READ, WRITE or EXECUTE; more than one bit for an atomic
        dma     whether the card may master the bus
        """
        if not context.control.enable_context or not context.base.valid:
            return Failure(WalkerError.RANGE, _missing(access), mapping=True)
        if not context.start <= address <= context.end:
            return Failure(WalkerError.RANGE, _missing(access), mapping=True)
        offset = address - context.start
        table = context.base.frame * PAGE
        for level in range(LEVELS - 1 - context.control.page_table_depth, LEVELS):
            entries = self._table(table)
            if entries is None:
                self._refuse(f"a page table at {table:#x}, outside local memory")
                return Failure(_DIRECTORY_ERRORS[level], _missing(access), mapping=True)
            at = index(offset, level)
            entry = self._kind(entries[at])
            if not entry.valid:
                if level < LEVELS - 1:
                    return Failure(_DIRECTORY_ERRORS[level], _missing(access), mapping=True)
                return Failure(WalkerError.NONE, _missing(access))
            if level == LEVELS - 1 or entry.leaf:
                return self._leaf(entry, entries, level, address, access, dma)
            if entry.system:
                self._refuse(f"a page table in host memory for {address:#x}")
                return Failure(_DIRECTORY_ERRORS[level], _missing(access), mapping=True)
            table = entry.frame * PAGE
        raise AssertionError("an entry of the last level is a leaf")

    def _table(self, at: int) -> memoryview | None:
        if at + TABLE_BYTES > self._memory.size:
            return None
        return self._memory.view[at : at + TABLE_BYTES].cast("Q")

    def _leaf(
        self, entry: Pte, entries: memoryview, level: int, address: int, access: int, dma: bool
    ) -> Run | Failure:
        if level == LEVELS - 1 and self._kind is Pte12 and not entry.leaf:
            self._refuse(f"a last-level entry without IS_PTE for {address:#x}")
        permissions = READ * entry.read | WRITE * entry.write | EXECUTE * entry.execute
        if access & ~permissions:
            return Failure(WalkerError.NONE, _missing(access & ~permissions) & ~1)
        page = address // PAGE
        first, count, physical = self._covered(entry, entries, level, page)
        if not entry.system:
            if physical + count * PAGE > self._memory.size:
                self._refuse(f"an entry for {physical:#x}, past the end of local memory")
                return Failure(WalkerError.NONE, _missing(access), mapping=True)
            base = self._memory.host_base + physical
            local = range(base, base + count * PAGE, PAGE)
            return Run(first, local, permissions, system=False)
        if not dma:
            self._refuse(f"an access to host memory at {physical:#x} while bus mastering is off")
            return Failure(WalkerError.NACK, _missing(access), mapping=True)
        if self._dma_fails():
            return Failure(WalkerError.NACK, _missing(access), mapping=True)
        if not entry.snooped:
            self._refuse(f"an entry for host memory at {physical:#x} without SNOOPED")
        try:
            parts = self._host.parts(physical, count * PAGE)
        except HostFault:  # part of what the entry covers: then only the page itself
            first, count, physical = page, 1, physical + (page - first) * PAGE
            try:
                parts = self._host.parts(physical, PAGE)
            except HostFault:
                self._refuse(f"an entry for bus address {physical:#x}, where nothing is mapped")
                return Failure(WalkerError.NACK, _missing(access), mapping=True)
        hosts: list[int] = []
        for part in parts:
            at = host_address(part)
            hosts.extend(range(at, at + len(part), PAGE))
        return Run(first, hosts, permissions, system=True)

    def _covered(
        self, entry: Pte, entries: memoryview, level: int, page: int
    ) -> tuple[int, int, int]:
        """First page, count and physical address of what one entry translates."""
        physical = entry.frame * PAGE
        if level < LEVELS - 1:
            size = 1 << SHIFTS[level]
            # Its address need not be aligned to its size: tinygrad relies on that on real cards.
            first = page & -ENTRIES  # 2 MiB of it are enough for once
            start = page & -(size // PAGE)
            return first, ENTRIES, physical + (first - start) * PAGE
        count = 1 << min(int(entry.fragment), 9)
        begin = page % ENTRIES & -count
        before = page % ENTRIES - begin
        first = entry.frame - before
        if count > 1:
            wanted = int(entry.replace(frame=max(first, 0))) & ~_FRAGMENT
            step = 1 << 12
            found = [other & ~_FRAGMENT for other in entries[begin : begin + count]]
            if found != list(range(wanted, wanted + count * step, step)):
                self._refuse(
                    f"fragment {entry.fragment} for {page * PAGE:#x}, whose pages do not lie"
                    " contiguous"
                )
        return page - before, count, first * PAGE


_DIRECTORY_ERRORS = (WalkerError.PDE2, WalkerError.PDE1, WalkerError.PDE0, WalkerError.NONE)


def _missing(access: int) -> int:
    """Permission bits of a fault status: valid, then what was asked for."""
    return 1 | access << 1
