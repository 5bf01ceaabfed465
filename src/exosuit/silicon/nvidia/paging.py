"""Page tables of the GPU: MMU version 2 (Ampere, Ada) and version 3 (Hopper, Blackwell).

A virtual address is cut by `Format.shifts`, the root's first. An entry above the last level either
points to the next table or, with bit 0 set, is a page of all that it covers. The level before the
last has entries of 16 bytes, which point to two tables: one of 64 KiB pages, one of 4 KiB pages.
Tables lie in local memory; addresses in entries are offsets there, or bus addresses by aperture.

Sources: OGKM `swref/published/turing/tu102/dev_mmu.h`, `hopper/gh100/dev_mmu.h`,
`turing/tu102/dev_vm.h`; checked against entries that tinygrad's driver writes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum

from exosuit.datasheet import Block, Word, at, bits, flag

PAGE = 4096
BIG_PAGE = 65536
HUGE_PAGE = 2 << 20
TABLE_BYTES = 4096
"""Every table takes a page, the root and those of 64 KiB pages only its first bytes."""


class PageAperture(IntEnum):
    """Where a page lies."""

    VIDEO = 0
    PEER = 1
    COHERENT = 2
    NON_COHERENT = 3


class TableAperture(IntEnum):
    """Where a table lies, and whether there is one."""

    INVALID = 0
    VIDEO = 1
    COHERENT = 2
    NON_COHERENT = 3


class Kind(IntEnum):
    """How the bytes of a page are laid out."""

    PITCH = 0
    GENERIC_MEMORY = 6


class Pte2(Word):
    """A page, version 2."""

    WIDTH = 64
    valid = flag(0)
    aperture = bits(2, 1, kind=PageAperture)
    uncached = flag(3, "VOL: not kept in the card's caches")
    encrypted = flag(4)
    privileged = flag(5)
    read_only = flag(6)
    no_atomics = flag(7)
    frame = bits(53, 8, "address >> 12; in local memory the low 25 bits of it count")
    kind = bits(63, 56, kind=Kind)


class Pte3(Word):
    """A page, version 3. Bits 7:3 together are its PCF."""

    WIDTH = 64
    valid = flag(0)
    aperture = bits(2, 1, kind=PageAperture)
    uncached = flag(3)
    privileged = flag(4)
    read_only = flag(5)
    no_atomics = flag(6)
    no_access_counter = flag(7)
    kind = bits(11, 8, kind=Kind)
    frame = bits(51, 12, "address >> 12")
    peer = bits(63, 61)


class Pde2(Word):
    """A pointer to a table, version 2."""

    WIDTH = 64
    is_page = flag(0, "the entry is a page of all that it covers")
    aperture = bits(2, 1, kind=TableAperture)
    uncached = flag(3)
    no_ats = flag(5)
    frame = bits(53, 8, "address >> 12")


class Pde3(Word):
    """A pointer to a table, version 3."""

    WIDTH = 64
    is_page = flag(0)
    aperture = bits(2, 1, kind=TableAperture)
    uncached = flag(3)
    no_ats = flag(4)
    frame = bits(51, 12, "address >> 12")


class DualPde2(Word):
    """Pointers to a table of 64 KiB pages and to one of 4 KiB pages, version 2."""

    WIDTH = 128
    is_page = flag(0)
    big_aperture = bits(2, 1, kind=TableAperture)
    big_uncached = flag(3)
    no_ats = flag(5)
    big_frame = bits(53, 6, "address >> 10; the header counts from bit 4, of which bit 5 is NO_ATS")
    aperture = bits(66, 65, kind=TableAperture)
    uncached = flag(67)
    frame = bits(117, 72, "address >> 12")


class DualPde3(Word):
    """Pointers to a table of 64 KiB pages and to one of 4 KiB pages, version 3."""

    WIDTH = 128
    is_page = flag(0)
    big_aperture = bits(2, 1, kind=TableAperture)
    big_uncached = flag(3)
    big_no_ats = flag(4)
    big_frame = bits(51, 8, "address >> 8")
    aperture = bits(66, 65, kind=TableAperture)
    uncached = flag(67)
    no_ats = flag(68)
    frame = bits(115, 76, "address >> 12")


Page = Pte2 | Pte3
Pointer = Pde2 | Pde3 | DualPde2 | DualPde3


@dataclass(frozen=True)
class Format:
    """One version of the tables.

    shifts     what one entry of each level covers, as a power of two, from the root on
    root       entries of the root
    pages      shifts of levels above the last at which an entry may be a page
    """

    version: int
    shifts: tuple[int, ...]
    root: int
    pages: tuple[int, ...]
    pte: type[Pte2] | type[Pte3]
    pde: type[Pde2] | type[Pde3]
    dual: type[DualPde2] | type[DualPde3]

    @property
    def last(self) -> int:
        """The level of 4 KiB pages."""
        return len(self.shifts) - 1

    @property
    def reach(self) -> int:
        """First address that the tables cannot name."""
        return self.root << self.shifts[0]

    def entry_bytes(self, level: int) -> int:
        """8, or 16 at the level whose entries are dual."""
        return 16 if level == self.last - 1 else 8

    def entries(self, level: int) -> int:
        """Entries of a table."""
        return self.root if level == 0 else 1 << self.shifts[level - 1] - self.shifts[level]

    def index(self, address: int, level: int) -> int:
        """Which entry of its table at `level` covers a virtual address."""
        return address >> self.shifts[level] & self.entries(level) - 1

    def pointer(self, address: int, level: int) -> Pointer:
        """The entry at `level` for the next table, in local memory; at the dual level, its table
        of 4 KiB pages.
        """
        kind = self.dual if level == self.last - 1 else self.pde
        return kind(aperture=TableAperture.VIDEO, no_ats=True, frame=address // PAGE)

    def page(
        self, address: int, *, system: bool = False, cached: bool = True, writable: bool = True
    ) -> Page:
        """The entry that maps `address`, in local memory or on the bus; 8 bytes at any level."""
        return self.pte(
            valid=True,
            aperture=PageAperture.COHERENT if system else PageAperture.VIDEO,
            uncached=system or not cached,
            read_only=not writable,
            kind=Kind.GENERIC_MEMORY,
            frame=address // PAGE,
        )

    def pages_of(self, first: Page, count: int, level: int) -> array[int]:
        """`count` entries of one level for memory that is contiguous from that of `first` on.

        The entries' second halves at the dual level are not in it.
        """
        return first.table(count, frame=1 << self.shifts[level] - self.shifts[-1])


VERSION_2 = Format(2, (47, 38, 29, 21, 12), 4, (21,), Pte2, Pde2, DualPde2)
VERSION_3 = Format(3, (56, 47, 38, 29, 21, 12), 2, (29, 21), Pte3, Pde3, DualPde3)
FORMATS = {2: VERSION_2, 3: VERSION_3}


class Invalidate(Word):
    """MMU_INVALIDATE: which translations are forgotten; `trigger` reads as 1 until they are."""

    all_va = flag(0)
    all_pdb = flag(1, "of every root, else of that in INVALIDATE_PDB")
    hub_only = flag(2)
    replay = bits(5, 3)
    sys_membar = flag(6)
    ack = bits(8, 7)
    cancel_client_id = bits(14, 9)
    cancel_gpc_id = bits(19, 15)
    cancel_client_type = flag(20)
    use_pasid = flag(21)
    use_size = flag(22)
    prop_flush = flag(23)
    cache_level = bits(26, 24)
    trigger = flag(31)


class InvalidateRoot(Word):
    """MMU_INVALIDATE_PDB: low bits of the root whose translations are meant."""

    is_system = flag(1)
    address = bits(31, 4, "address >> 12, low 28 bits")


class MmuInvalidate(Block):
    """The translation caches' registers in the virtual function's region, at BASE in BAR 0."""

    BASE = 0xB8_0000
    PDB = at(0x30A0, InvalidateRoot)
    UPPER_PDB = at(0x30A4, Word, "address >> 40 of the root")
    INVALIDATE = at(0x30B0, Invalidate)


EVERYTHING = Invalidate(all_va=True, all_pdb=True, sys_membar=True, trigger=True)
"""Forget all translations, after all earlier writes to host memory."""
