"""Bytes behind memory objects: a card's own memory, the kernel's, and pages that a caller lent.

A card's memory is one anonymous file, so that a mapping of the caller's and what engines see are
the same bytes. Memory goes back when the last who knows it lets go: its object, or a mapping.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass

from exosuit.units import round_up

PAGE = 4096


@dataclass(eq=False)
class Backing:
    """Contiguous bytes.

    host      their address in this process
    start     in the file of the pool, or None for a caller's own pages
    is_host   they are the host's memory, across the link for the card
    holders   objects and mappings that know them
    """

    pool: Pool | None
    start: int
    size: int
    host: int
    is_host: bool
    holders: int = 1

    def hold(self) -> Backing:
        self.holders += 1
        return self

    def let_go(self) -> None:
        self.holders -= 1
        if self.holders == 0 and self.pool is not None:
            self.pool.give(self)


class Pool:
    """Memory of a fixed size, given out in pages, zeroed."""

    def __init__(self, name: str, size: int, *, is_host: bool) -> None:
        self.size = size
        self.free_bytes = size
        self._is_host = is_host
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._mapped = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
        self._host = ctypes.addressof(ctypes.c_char.from_buffer(self._mapped))
        self._free = [(0, size)]

    def take(self, size: int, alignment: int) -> Backing | None:
        """The first room that fits, or None."""
        size = round_up(size, PAGE)
        for index, (start, end) in enumerate(self._free):
            at = round_up(start, max(alignment, PAGE))
            if at + size > end:
                continue
            left = [(start, at), (at + size, end)]
            self._free[index : index + 1] = [(a, b) for a, b in left if a < b]
            self.free_bytes -= size
            return Backing(self, at, size, self._host + at, self._is_host)
        return None

    def give(self, backing: Backing) -> None:
        """Take memory back; what it held is gone, as the real driver scrubs it."""
        self._mapped.madvise(mmap.MADV_REMOVE, backing.start, backing.size)
        self.free_bytes += backing.size
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self._free, (backing.start, backing.start + backing.size)]):
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        self._free = merged


class CallerMemory:
    """The caller's addresses, reached as a kernel does: a bad one is an error, not the end.

    Raises OSError (EFAULT or EIO) for what is not mapped.
    """

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        if not 0 < address < 1 << 47:
            raise OSError(14, "bad address")
        data = os.pread(self._fd, size, address)
        if len(data) < size:
            raise OSError(14, "bad address")
        return data

    def write(self, address: int, data: bytes | bytearray) -> None:
        if not 0 < address < 1 << 47:
            raise OSError(14, "bad address")
        os.pwrite(self._fd, data, address)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
