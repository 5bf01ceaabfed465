"""Regions that are mapped into this process: BARs of Linux links, DMA memory of most links."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from exosuit.link.function import (
    Counters,
    Data,
    Segment,
    check_access,
    locate,
)
from exosuit.units import BusAddress


class MappedMemory:
    """DMA memory in this process; nothing crosses the link when the host touches it."""

    def __init__(
        self,
        view: memoryview,
        segments: Sequence[Segment],
        free: Callable[[], None] | None = None,
    ) -> None:
        self.view: memoryview | None = view
        self.segments = tuple(segments)
        self._bytes = view
        self._free = free

    @property
    def size(self) -> int:
        return len(self._bytes)

    def bus_address(self, offset: int = 0) -> BusAddress:
        return locate(self.segments, offset)

    def read32(self, offset: int) -> int:
        check_access("DMA memory", self.size, offset, 4)
        return int.from_bytes(self._bytes[offset : offset + 4], "little")

    def write32(self, offset: int, value: int) -> None:
        check_access("DMA memory", self.size, offset, 4)
        self._bytes[offset : offset + 4] = value.to_bytes(4, "little")

    def write64(self, offset: int, value: int) -> None:
        check_access("DMA memory", self.size, offset, 8, 8)
        self._bytes[offset : offset + 8] = value.to_bytes(8, "little")

    def read(self, offset: int, size: int) -> bytes:
        check_access("DMA memory", self.size, offset, size)
        return bytes(self._bytes[offset : offset + size])

    def read_into(self, offset: int, target: memoryview) -> None:
        check_access("DMA memory", self.size, offset, len(target))
        target[:] = self._bytes[offset : offset + len(target)]

    def write(self, offset: int, data: Data) -> None:
        check_access("DMA memory", self.size, offset, len(data))
        self._bytes[offset : offset + len(data)] = data

    def free(self) -> None:
        """Give the memory back; the card must not touch it any more."""
        if self._free is not None:
            self._free()
            self._free = None


class MappedBar:
    """A BAR mapped into this process.

    Registers answer whole aligned words and nothing else, so they are reached through `ctypes`
    arrays, one load or store per element. Only a prefetchable BAR promises the manners of memory,
    and is copied in bulk.
    """

    def __init__(
        self, index: int, address: int, view: memoryview, counters: Counters, *, prefetchable: bool
    ) -> None:
        self.index = index
        self.address = address
        self.size = len(view)
        self._view = view
        self._counters = counters
        self._words = (ctypes.c_uint32 * (self.size // 4)).from_buffer(view)
        self._doubles = (ctypes.c_uint64 * (self.size // 8)).from_buffer(view)
        self._prefetchable = prefetchable
        self._title = f"BAR {index}"

    def read32(self, offset: int) -> int:
        check_access(self._title, self.size, offset, 4)
        self._count_read(4)
        return self._words[offset >> 2]

    def write32(self, offset: int, value: int) -> None:
        check_access(self._title, self.size, offset, 4)
        self._count_write(4)
        self._words[offset >> 2] = value

    def write64(self, offset: int, value: int) -> None:
        check_access(self._title, self.size, offset, 8, 8)
        self._count_write(8)
        self._doubles[offset >> 3] = value

    def read(self, offset: int, size: int) -> bytes:
        check_access(self._title, self.size, offset, size)
        self._count_read(size)
        if self._prefetchable:
            return bytes(self._view[offset : offset + size])
        first, count = offset >> 2, -(-size // 4)
        words = self._words[first : first + count]
        return b"".join(word.to_bytes(4, "little") for word in words)[:size]

    def read_into(self, offset: int, target: memoryview) -> None:
        if not self._prefetchable:
            target[:] = self.read(offset, len(target))
            return
        check_access(self._title, self.size, offset, len(target))
        self._count_read(len(target))
        target[:] = self._view[offset : offset + len(target)]

    def write(self, offset: int, data: Data) -> None:
        size = len(data)
        check_access(self._title, self.size, offset, size)
        self._count_write(size)
        if self._prefetchable:
            self._view[offset : offset + size] = data
            return
        whole = size & ~3
        source = (ctypes.c_uint32 * (whole // 4)).from_buffer_copy(bytes(data[:whole]))
        first = offset >> 2
        self._words[first : first + whole // 4] = source  # one store per word
        for at in range(whole, size):
            self._view[offset + at] = data[at]

    def release(self) -> None:
        """Drop the arrays over the mapping, so that it can be closed."""
        del self._words, self._doubles
        self._view.release()

    def _count_read(self, size: int) -> None:
        self._counters.reads += 1
        self._counters.round_trips += 1
        self._counters.bytes_read += size

    def _count_write(self, size: int) -> None:
        self._counters.writes += 1
        self._counters.bytes_written += size
