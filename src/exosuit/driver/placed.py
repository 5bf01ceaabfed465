"""The memory of a card as a `Device` offers it: what is the same whoever made the card.

A buffer is an allocation: memory of the card, reached by its copy engine, or memory of the host,
reached as it is. A buffer that nobody holds any more gives its memory back by itself, at the next
moment when that is safe.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.device import Buffer, Region
from exosuit.errors import ExosuitError
from exosuit.units import GpuAddress

Data = bytes | bytearray | memoryview

_DWORD = 4


class HostMemory(Protocol):
    """Host memory that the card reaches. Zeroed when it is taken.

    Offsets and sizes are multiples of 4 where there is no view.
    """

    @property
    def view(self) -> memoryview | None:
        """The same bytes in this process, or None where every access is a request."""
        ...

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, data: Data) -> None: ...


class Allocation(Protocol):
    """Memory at the address by which programs know it; `reserved` bytes of it are mapped."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> GpuAddress: ...

    @property
    def size(self) -> int: ...

    @property
    def reserved(self) -> int: ...

    @property
    def host(self) -> HostMemory | None: ...


A = TypeVar("A", bound=Allocation)


class Allocator(Protocol[A]):
    """Where memory of the card comes from."""

    def take(self, size: int, name: str) -> A: ...

    def give(self, allocation: A, /) -> None: ...

    def flush(self) -> None:
        """Let the card know of all maps; before anything is submitted that uses them."""
        ...


class Copier(Protocol):
    """The card's copy engine."""

    def write(self, target: GpuAddress, data: NDArray[np.uint8]) -> None: ...

    def read(self, source: GpuAddress, target: NDArray[np.uint8]) -> None: ...

    def fill(self, target: GpuAddress, size: int) -> None: ...

    def finish(self) -> None: ...


class PlacedDevice(Generic[A]):
    """Buffers of a card. Devices of cards inherit it and add programs, replays and an end."""

    def __init__(self, memory: Allocator[A], copies: Copier) -> None:
        self._memory = memory
        self._copies = copies
        self._closed = False
        # What was collected: appended to at any moment, by any thread; given back when it suits.
        self._dropped: deque[A] = deque()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        self._check_open()
        self._sweep()
        if host:
            return self._buffer(self._take_host(size_bytes, name))
        allocation = self._memory.take(size_bytes, name)
        self._memory.flush()
        self._copies.fill(allocation.address, allocation.reserved)
        return self._buffer(allocation)

    def free(self, buffer: Buffer) -> None:
        """Give memory back; what is queued with it is waited for."""
        held: _Held[A] | None = buffer.owner
        if held is None or self._closed:
            return
        buffer.owner = None
        buffer.size_bytes = 0
        held.let_go()
        self._give(held.allocation)

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any] | None:
        allocation = self._of(region)
        if allocation.host is None or allocation.host.view is None:
            return None
        whole = np.frombuffer(allocation.host.view, np.uint8)
        return whole[region.offset : region.offset + region.size_bytes].view(dtype)

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        assert flat.size <= region.size_bytes, region.buffer.name
        allocation = self._of(region)
        if allocation.host is not None:
            _write_host(allocation.host, region.offset, flat)
            return
        self._memory.flush()
        self._copies.write(GpuAddress(region.address), flat)

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        allocation = self._of(region)
        if allocation.host is not None:
            return _read_host(allocation.host, region).view(dtype)
        target = np.empty(region.size_bytes, np.uint8)
        self._memory.flush()
        self._copies.read(GpuAddress(region.address), target)
        return target.view(dtype)

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        """A copy on the card: pages that were not pinned cannot be reached from there."""
        self._check_open()
        allocation = self._memory.take(data.size, name)
        self._memory.flush()
        self._copies.write(allocation.address, data)
        return self._buffer(allocation)

    def drop(self, allocation: A) -> None:
        """Note memory that nobody holds any more; safe wherever the collector may run."""
        self._dropped.append(allocation)

    def _take_host(self, size: int, name: str) -> A:
        """Host memory that the card reaches; DoesNotFit where it cannot be had."""
        raise NotImplementedError

    def _problem(self) -> ExosuitError | None:
        """Why the card cannot be used any more."""
        raise NotImplementedError

    def _sweep(self) -> None:
        while self._dropped:
            self._give(self._dropped.popleft())

    def _give(self, allocation: A) -> None:
        if self._problem() is None:
            self._copies.finish()
        self._memory.give(allocation)

    def _of(self, region: Region) -> A:
        self._check_open()
        held: _Held[A] | None = region.buffer.owner
        assert held is not None, f"{region.buffer.name} has been freed"
        return held.allocation

    def _buffer(self, allocation: A) -> Buffer:
        """A buffer over it. The card's memory whose buffer is collected comes back by itself."""
        held = _Held(allocation)
        buffer = Buffer(allocation.name, allocation.address, allocation.size, owner=held)
        if allocation.host is None:
            held.let_go = weakref.finalize(buffer, self.drop, allocation).detach
        return buffer

    def _check_open(self) -> None:
        assert not self._closed, "used after close"
        problem = self._problem()
        if problem is not None:
            raise problem


class _Held(Generic[A]):
    """The memory of a buffer that has not been freed."""

    def __init__(self, allocation: A) -> None:
        self.allocation = allocation
        self.let_go: Callable[[], object] = _nothing


def _nothing() -> None:
    """Host memory may be looked at by arrays that outlive its buffer, so it waits for `free`."""


def _write_host(memory: HostMemory, offset: int, flat: NDArray[np.uint8]) -> None:
    if memory.view is not None:
        memory.view[offset : offset + flat.size] = flat.data
        return
    first, last = offset & ~3, -(-(offset + flat.size) // _DWORD) * _DWORD
    if flat.size % _DWORD == 0 and offset % _DWORD == 0:
        memory.write(offset, flat.data)
        return
    data = bytearray(memory.read(first, last - first))
    data[offset - first : offset - first + flat.size] = flat.data
    memory.write(first, data)


def _read_host(memory: HostMemory, region: Region) -> NDArray[np.uint8]:
    if memory.view is not None:
        part = memory.view[region.offset : region.offset + region.size_bytes]
        return np.frombuffer(bytes(part), np.uint8).copy()
    first = region.offset & ~3
    last = -(-(region.offset + region.size_bytes) // _DWORD) * _DWORD
    data = memory.read(first, last - first)
    return np.frombuffer(data, np.uint8)[region.offset - first :][: region.size_bytes].copy()
