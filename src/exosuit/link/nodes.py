"""Device nodes of a kernel driver: files that are opened, told things by ioctl, and mapped.

The seam between a driver of ours and NVIDIA's kernel driver, as `PciFunction` is between a driver
and a bare card. `LinuxNodes` is the real thing; a software model of the kernel driver offers the
same five calls and nothing else. Records may hold addresses of this process, as ioctls do.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import threading
from typing import Protocol

from exosuit.link.function import Data


class Mapping(Protocol):
    """What a node shows in this process: memory of a card, or registers.

    Offsets are multiples of 4. Words of memory may be combined and held back by the processor until
    `flush`, and reach the card in any order; registers get each at once.
    """

    @property
    def size(self) -> int: ...

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...

    def write(self, offset: int, data: Data) -> None: ...

    def flush(self) -> None:
        """What was written is on its way, before anything that is written from now on."""
        ...

    def close(self) -> None: ...


class DeviceNodes(Protocol):
    """The file system's side of a kernel driver. Every call raises OSError as the kernel does."""

    def open(self, path: str) -> int:
        """A descriptor of the node, for reading and writing."""
        ...

    def ioctl(self, fd: int, request: int, record: bytearray) -> None:
        """Let the driver act on a record, which it changes."""
        ...

    def map(self, fd: int, size: int) -> Mapping:
        """What the driver has prepared this descriptor to show."""
        ...

    def close(self, fd: int) -> None: ...


class LinuxNodes:
    """The nodes of this computer."""

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def ioctl(self, fd: int, request: int, record: bytearray) -> None:
        fcntl.ioctl(fd, request, record, True)

    def map(self, fd: int, size: int) -> MappedNode:
        return MappedNode(mmap.mmap(fd, size, mmap.MAP_SHARED))

    def close(self, fd: int) -> None:
        os.close(fd)


class MappedNode:
    """A mapping of this process; words go through `ctypes`, one store for each.

    x86 empties its combining buffers at a locked instruction (Intel SDM 3A 12.3.1, AMD APM 2 7.4),
    and taking a lock of Python's is one. Elsewhere a read fetches what was written last from the
    bus, which the writes before it cannot overtake; nobody could try that.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        self.size = len(mapped)
        self._mapped = mapped
        self._words = (ctypes.c_uint32 * (self.size // 4)).from_buffer(mapped)
        self._last = 0

    def read32(self, offset: int) -> int:
        return self._words[offset >> 2]

    def write32(self, offset: int, value: int) -> None:
        self._words[offset >> 2] = value
        self._last = offset >> 2

    def write(self, offset: int, data: Data) -> None:
        words = memoryview(data).cast("B").cast("I")
        first = offset >> 2
        for index, word in enumerate(words):
            self._words[first + index] = word
        self._last = first + max(len(words) - 1, 0)

    def flush(self) -> None:
        if _IS_X86:
            with _LOCK:
                pass
        else:
            self.read32(4 * self._last)

    def close(self) -> None:
        del self._words
        self._mapped.close()


_IS_X86 = platform.machine() in ("x86_64", "AMD64")
_LOCK = threading.Lock()
