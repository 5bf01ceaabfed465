"""Local memory of an AMD card: bytes, where they lie on the host, and their MC addresses.

Three kinds of numbers name a byte of it: the offset that page tables use, the MC address (offset
plus the base of local memory, never 0 here, so that a driver that mixes them is caught), and the
host address that translated programs use.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import cast

from exosuit.softcard.memory import host_address, sparse_memory
from exosuit.units import MiB

FB_LOCATION_BASE = 0x8000
"""MC address of local memory >> 24."""
SCRAMBLED = 32 * MiB
"""A reset leaves so much of the beginning in disorder; the rest comes back as zeros."""


class LocalMemory:
    """`size` bytes, real where they were touched."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = sparse_memory(size)
        self.host_base = host_address(self.view)
        self.mc_base = FB_LOCATION_BASE << 24

    def at_mc(self, address: int, size: int) -> memoryview | None:
        """The bytes at an MC address, or None where there are none."""
        offset = address - self.mc_base
        if offset < 0 or offset + size > self.size:
            return None
        return self.view[offset : offset + size]

    def read32(self, offset: int) -> int:
        """A dword; ones past the end."""
        if not 0 <= offset <= self.size - 4:
            return 0xFFFF_FFFF
        return int.from_bytes(self.view[offset : offset + 4], "little")

    def write32(self, offset: int, value: int) -> None:
        """A dword; dropped past the end."""
        if 0 <= offset <= self.size - 4:
            self.view[offset : offset + 4] = value.to_bytes(4, "little")

    def clear(self, offset: int, size: int) -> None:
        """Zeros; whole pages are given back to the host rather than filled."""
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if sys.platform != "linux" or first >= end:  # elsewhere the advice promises no zeros
            ctypes.memset(self.host_base + offset, 0, size)
            return
        ctypes.memset(self.host_base + offset, 0, first - offset)
        cast("mmap.mmap", self.view.obj).madvise(mmap.MADV_DONTNEED, first, end - first)
        ctypes.memset(self.host_base + end, 0, offset + size - end)

    def lose(self) -> None:
        """What a reset does to memory that is not refreshed: nothing in it can be relied on."""
        cast("mmap.mmap", self.view.obj).madvise(mmap.MADV_DONTNEED)
        end = min(SCRAMBLED, self.size)
        self.view[:end] = b"\x5a\xc3\x96\x0f" * (end // 4)
