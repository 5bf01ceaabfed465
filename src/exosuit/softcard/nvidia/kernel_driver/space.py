"""One GPU's address space as unified memory keeps it: which backing lies at which address."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from dataclasses import dataclass

from exosuit.softcard.nvidia.executor.memory import MemoryFault
from exosuit.softcard.nvidia.kernel_driver.backing import Backing
from exosuit.softcard.nvidia.ptx.grid import Window


@dataclass(frozen=True)
class Mapped:
    """`size` bytes of a backing from `offset` on, at GPU address `base`."""

    base: int
    size: int
    backing: Backing
    offset: int
    writable: bool

    @property
    def end(self) -> int:
        return self.base + self.size

    @property
    def host(self) -> int:
        return self.backing.host + self.offset


class GpuSpace:
    """Implements the executor's GpuMemory."""

    def __init__(self) -> None:
        self._mapped: list[Mapped] = []
        self._windows: list[Window] = []

    def map(self, mapped: Mapped) -> None:
        """Let a backing be seen; nothing may lie there yet."""
        self._mapped.append(mapped)
        self._changed()

    def unmap(self, base: int, size: int) -> list[Mapped]:
        """Forget what lies in a range; gives it, to be let go."""
        gone = [m for m in self._mapped if base <= m.base and m.end <= base + size]
        self._mapped = [m for m in self._mapped if m not in gone]
        self._changed()
        return gone

    def read(self, address: int, size: int) -> bytes:
        return b"".join(
            ctypes.string_at(host, length) for host, length in self._pieces(address, size, False)
        )

    def write(self, address: int, data: bytes) -> None:
        at = 0
        for host, length in self._pieces(address, len(data), True):
            ctypes.memmove(host, data[at : at + length], length)
            at += length

    def windows(self) -> list[Window]:
        return self._windows

    def host_bytes(self, address: int, size: int) -> int:
        found = 0
        while size > 0:
            mapped = self._find(address, False)
            length = min(mapped.end - address, size)
            found += length if mapped.backing.is_host else 0
            address, size = address + length, size - length
        return found

    def _pieces(self, address: int, size: int, write: bool) -> list[tuple[int, int]]:
        pieces: list[tuple[int, int]] = []
        while size > 0:
            mapped = self._find(address, write)
            length = min(mapped.end - address, size)
            pieces.append((mapped.host + address - mapped.base, length))
            address, size = address + length, size - length
        return pieces

    def _find(self, address: int, write: bool) -> Mapped:
        index = bisect_right(self._mapped, address, key=lambda mapped: mapped.base) - 1
        mapped = self._mapped[index] if index >= 0 else None
        if mapped is None or address >= mapped.end:
            raise MemoryFault(address, write, "nothing is mapped")
        if write and not mapped.writable:
            raise MemoryFault(address, write, "read-only")
        return mapped

    def _changed(self) -> None:
        self._mapped.sort(key=lambda mapped: mapped.base)
        windows: list[Window] = []
        for mapped in self._mapped:
            last = windows[-1] if windows else None
            if last is not None and (
                last.start + last.size_bytes == mapped.base
                and last.host + last.size_bytes == mapped.host
            ):
                windows[-1] = Window(last.start, last.size_bytes + mapped.size, last.host)
            else:
                windows.append(Window(mapped.base, mapped.size, mapped.host))
        self._windows = windows
