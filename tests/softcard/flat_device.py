"""The memory of a `Device` that is one piece of this process's, seen at addresses of a GPU's."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.device import Buffer, Region
from exosuit.errors import DoesNotFit
from exosuit.units import MiB, round_up

_ALIGN = 256
_HUGE = 2 * MiB


class FlatDevice:
    """Everything of `Device` that is about memory; first fit, neighbours joined when freed.

    base          address of the first byte
    memory_bytes  how much there is; real where it is touched
    """

    def __init__(self, base: int, memory_bytes: int) -> None:
        self.base = base
        self.memory_bytes = memory_bytes
        self._memory = mmap.mmap(
            -1, memory_bytes + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        whole = np.frombuffer(self._memory, np.uint8)
        first = -whole.ctypes.data % _HUGE
        self.bytes = whole[first : first + memory_bytes]
        self._free: list[tuple[int, int]] = [(0, memory_bytes)]

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        size = round_up(max(size_bytes, 1), _ALIGN)
        for k, (start, room) in enumerate(self._free):
            if room >= size:
                self._free[k] = (start + size, room - size)
                if not sparse:
                    self.bytes[start : start + size] = 0
                return Buffer(name, self.base + start, size_bytes, owner=host)
        raise DoesNotFit(f"{size_bytes} bytes for {name}", cause="the test's memory", next="more")

    def free(self, buffer: Buffer) -> None:
        start, size = buffer.address - self.base, round_up(max(buffer.size_bytes, 1), _ALIGN)
        self.bytes[start : start + size] = 0
        self._free.append((start, size))
        self._free.sort()
        joined: list[tuple[int, int]] = []
        for begin, room in self._free:
            if joined and sum(joined[-1]) == begin:
                joined[-1] = joined[-1][0], joined[-1][1] + room
            else:
                joined.append((begin, room))
        self._free = joined

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any] | None:
        return self.view(region).view(dtype) if region.buffer.owner else None

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self.view(region)[: flat.size] = flat

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        return self.view(region).view(dtype).copy()

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        buffer = self.allocate(data.nbytes, name)
        self.copy_in(buffer.region(), data)
        return buffer

    def view(self, region: Region) -> NDArray[np.uint8]:
        """The bytes of a region."""
        start = region.address - self.base
        return self.bytes[start : start + region.size_bytes]

    def close(self) -> None:
        """Nothing is open."""
