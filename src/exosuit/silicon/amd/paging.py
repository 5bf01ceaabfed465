"""Page tables of the GPU: four levels of 512 entries, gfx11 and gfx12.

A virtual address, less the context's start, is indexed by nine bits per level. An entry either
points to the next table or is a leaf; a leaf above the last level carries a mark. Addresses in
entries are offsets in local memory, or bus addresses with `system` set.

Sources: Linux `amdgpu_vm.h`, `gmc_v11_0.c`, `gmc_v12_0.c`. Checked against golden entries that
tinygrad's driver writes.
"""

from __future__ import annotations

from array import array
from enum import IntEnum

from exosuit.datasheet import Word, bits, flag

PAGE = 4096
ENTRIES = 512
TABLE_BYTES = 8 * ENTRIES
LEVELS = 4
SHIFTS = (39, 30, 21, 12)
"""What one entry of each level covers, as a power of two; the root is level 0."""
MAPPED_BYTES = 1 << 48
"""What one root covers."""


class MemoryType(IntEnum):
    """How caches treat a page."""

    NC = 0
    UC = 3


class Pte(Word):
    """An entry of any level on gfx11."""

    WIDTH = 64
    valid = flag(0)
    system = flag(1, "host memory: the address is a bus address")
    snooped = flag(2, "coherent with the host's caches")
    tmz = flag(3)
    execute = flag(4)
    read = flag(5)
    write = flag(6)
    fragment = bits(11, 7, "log2 of the pages that lie contiguous around this one")
    frame = bits(47, 12, "address >> 12")
    mtype = bits(50, 48, kind=MemoryType)
    prt = flag(51)
    leaf = flag(54, "PDE_PTE: a leaf above the last level")
    log = flag(55)
    translate_further = flag(56)
    noalloc = flag(58)
    block_fragment = bits(63, 59, "of a pointer: the fragment size of its table")


class Pte12(Pte):
    """An entry of any level on gfx12."""

    translate_further = None
    log = None
    noalloc = None
    mtype = bits(55, 54, kind=MemoryType)
    prt = flag(56)
    block_fragment = bits(62, 58, "bit 58 of a leaf is DCC, compressed memory")
    leaf = flag(63, "IS_PTE: on every leaf, those of the last level too")


def entry_kind(gfx: int) -> type[Pte]:
    """The entries of a generation; `gfx` is 11 or 12."""
    return {11: Pte, 12: Pte12}[gfx]


def pointer(kind: type[Pte], address: int) -> Pte:
    """The entry that points to the table at `address` in local memory."""
    return kind(valid=True, frame=address // PAGE)


def leaf(
    kind: type[Pte], address: int, level: int, *, system: bool = False, cached: bool = True,
    executable: bool = True, writable: bool = True, fragment: int = 0,
) -> Pte:  # fmt: skip
    """The entry that maps `address`, in local memory or on the bus, at `level`."""
    marked = kind is Pte12 or level < LEVELS - 1
    return kind(
        valid=True,
        system=system,
        snooped=system,
        execute=executable,
        read=True,
        write=writable,
        fragment=fragment,
        frame=address // PAGE,
        mtype=MemoryType.NC if cached and not system else MemoryType.UC,
        leaf=marked,
    )


def leaves(first: Pte, count: int, level: int) -> array[int]:
    """`count` entries of one level for memory that is contiguous from that of `first` on."""
    return first.table(count, frame=1 << (SHIFTS[level] - SHIFTS[-1]))


def index(offset: int, level: int) -> int:
    """Which entry of its table at `level` covers the byte `offset` from the context's start."""
    return offset >> SHIFTS[level] & ENTRIES - 1


def largest_fragment(virtual: int, physical: int, size: int) -> int:
    """The largest fragment that may be told for pages of a run: both addresses aligned to it.

    virtual   of the run's first byte; the whole run is contiguous
    size      of the run in bytes
    """
    aligned = (virtual | physical) & -(virtual | physical) or 1 << 62
    return max(min(aligned.bit_length(), size.bit_length()) - 1 - SHIFTS[-1], 0)
