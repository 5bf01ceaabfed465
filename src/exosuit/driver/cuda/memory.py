"""Memory of one card and host memory that it reaches, as libcuda gives them.

The driver places and maps; what is kept here is who has what, for people who read about full
memory, and for the end.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from exosuit.driver.cuda import failures
from exosuit.driver.cuda.context import Context
from exosuit.driver.placed import Data
from exosuit.errors import DoesNotFit
from exosuit.units import GpuAddress, human_bytes

HOST_PORTABLE_MAPPED = 3
"""CU_MEMHOSTALLOC_PORTABLE and _DEVICEMAP."""

_NAMED = 3
_LARGEST_PINNED = 1 << 48
"""Larger than any host's memory; a size has to fit the C type."""


class PinnedMemory:
    """Host memory whose pages stay where they are. Implements `HostMemory`."""

    def __init__(self, place: int, size: int) -> None:
        self.place = place
        self.view = memoryview((ctypes.c_uint8 * size).from_address(place)).cast("B")

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.view[offset : offset + size])

    def write(self, offset: int, data: Data) -> None:
        part = memoryview(data).cast("B")
        self.view[offset : offset + part.nbytes] = part


@dataclass(frozen=True)
class Allocation:
    """Memory at `address`, of the card or of the host."""

    name: str
    address: GpuAddress
    size: int
    reserved: int
    host: PinnedMemory | None


class Memory:
    """The allocator of one card; the context is the calling thread's wherever it is used.

    size_bytes  of the card
    """

    def __init__(self, context: Context, size_bytes: int) -> None:
        self._context = context
        self._size_bytes = size_bytes
        self._live: dict[int, Allocation] = {}

    def take(self, size: int, name: str) -> Allocation:
        """Memory of the card, with whatever was in it. DoesNotFit, with what takes the room."""
        address = ctypes.c_uint64()
        reserved = max(size, 1)
        if size > self._size_bytes:
            raise self._full(size, name)
        status = self._context.library.status("cuMemAlloc_v2", ctypes.byref(address), reserved)
        if status == failures.OUT_OF_MEMORY:
            raise self._full(size, name)
        if status:
            raise self._context.failed(status, "cuMemAlloc_v2")
        return self._keep(Allocation(name, GpuAddress(address.value), size, reserved, None))

    def take_host(self, size: int, name: str) -> Allocation:
        """Pinned memory, zeroed. DoesNotFit where the system has no more of it."""
        reserved = max(size, 1)
        place = ctypes.c_void_p()
        status = failures.OUT_OF_MEMORY
        if size < _LARGEST_PINNED:
            status = self._context.library.status(
                "cuMemHostAlloc", ctypes.byref(place), reserved, HOST_PORTABLE_MAPPED
            )
        if status == failures.OUT_OF_MEMORY:
            raise DoesNotFit(
                f"{human_bytes(size)} of host memory for {name} cannot be had",
                cause="the system cannot pin so much",
                next="close other programs, or use a smaller --context",
                wanted=size,
            )
        if status:
            raise self._context.failed(status, "cuMemHostAlloc")
        assert place.value is not None
        address = ctypes.c_uint64()
        self._context.call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), place, 0)
        ctypes.memset(place.value, 0, reserved)
        host = PinnedMemory(place.value, reserved)
        return self._keep(Allocation(name, GpuAddress(address.value), size, reserved, host))

    def give(self, allocation: Allocation) -> None:
        """Take back what nothing uses. Of a card that failed nothing comes back: see `Context`."""
        del self._live[allocation.address]
        if self._context.problem is not None:
            return
        self._context.enter()
        if allocation.host is None:
            self._context.call("cuMemFree_v2", allocation.address)
        else:
            self._context.call("cuMemFreeHost", allocation.host.place)

    def flush(self) -> None:
        """Nothing to do: maps are the driver's."""

    def close(self) -> None:
        """Give back what is still there of the card; the host's arrays may still be looked at."""
        for allocation in list(self._live.values()):
            if allocation.host is None:
                self.give(allocation)

    def _keep(self, allocation: Allocation) -> Allocation:
        self._live[allocation.address] = allocation
        return allocation

    def _full(self, size: int, name: str) -> DoesNotFit:
        local = [one for one in self._live.values() if one.host is None]
        largest = sorted(local, key=lambda one: -one.size)[:_NAMED]
        holders = ", ".join(f"{one.name} {human_bytes(one.size)}" for one in largest)
        free = self._context.free_bytes()
        others = max(self._size_bytes - free - sum(one.reserved for one in local), 0)
        return DoesNotFit(
            f"{human_bytes(size)} for {name} do not fit; the card has {human_bytes(free)} free",
            cause=f"of its {human_bytes(self._size_bytes)} other programs and the driver have"
            f" {human_bytes(others)}" + (f"; most of ours is {holders}" if holders else ""),
            next="use a smaller --context or a smaller model:  exosuit plan MODEL",
            wanted=size,
            free=free,
        )
