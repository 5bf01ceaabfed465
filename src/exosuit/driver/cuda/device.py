"""An NVIDIA card as a `Device`, through libcuda.

A replay is one `cuGraphLaunch`; what the host reads every step lies in its own pinned memory, which
kernels write. Addresses are the same for host and card (unified addressing), and memory is the
driver's to place, so that this device is little more than names for what libcuda has.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.clock import Clock, SystemClock
from exosuit.driver.cuda import failures
from exosuit.driver.cuda.context import MULTIPROCESSORS, Context, answers_on_its_bus
from exosuit.driver.cuda.copies import HOST_PORTABLE_MAPPED, Copies, host_bytes
from exosuit.driver.cuda.library import Library
from exosuit.driver.cuda.programs import Programs
from exosuit.driver.cuda.replay import GraphBuilder
from exosuit.driver.device import Buffer, Launch, Region
from exosuit.errors import DoesNotFit
from exosuit.units import human_bytes

HANG_S = 30.0
_NAMED = 3


class CudaDevice:
    """One card. Implements `Device`.

    ordinal     as libcuda counts cards, from 0
    hang_s      seconds after which a graph that has not finished counts as hung
    is_present  whether a function still answers on its bus
    """

    takes_cubins = True
    """Its programs may be machine code, which packs have."""

    def __init__(
        self,
        library: Library,
        ordinal: int = 0,
        clock: Clock | None = None,
        hang_s: float = HANG_S,
        is_present: Callable[[str], bool] = answers_on_its_bus,
    ) -> None:
        self.context = Context(library, ordinal, clock or SystemClock(), hang_s, is_present)
        self.name = self.context.name
        self.target = self.context.target
        self.memory_bytes = self.context.memory_bytes
        self.multiprocessors = self.context.attribute(MULTIPROCESSORS)
        self._copies = Copies(self.context)
        self._programs = Programs(self.context)
        self._live: dict[int, tuple[str, int]] = {}
        self._closed = False

    @property
    def parallel_groups(self) -> int:
        return 2 * self.multiprocessors

    @property
    def is_closed(self) -> bool:
        return self._closed

    # Memory ---------------------------------------------------------------------------------

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        self._enter()
        self.context.sweep()
        if host:
            return self._allocate_host(size_bytes, name)
        buffer = self._take(size_bytes, name)
        self._copies.fill(buffer.address, max(size_bytes, 1))
        return buffer

    def _take(self, size_bytes: int, name: str) -> Buffer:
        address = ctypes.c_uint64()
        if size_bytes > self.memory_bytes:
            raise self._full(size_bytes, name)
        size = max(size_bytes, 1)
        status = self.context.library.status("cuMemAlloc_v2", ctypes.byref(address), size)
        if status == failures.OUT_OF_MEMORY:
            raise self._full(size_bytes, name)
        if status:
            raise self.context.failed(status, "cuMemAlloc_v2")
        self._live[address.value] = name, size_bytes
        buffer = Buffer(name, address.value, size_bytes)
        finalizer = weakref.finalize(buffer, self._let_go, address.value)
        buffer.owner = _Held("cuMemFree_v2", address.value, None, finalizer.detach)
        return buffer

    def _let_go(self, address: int) -> None:
        """A buffer that nobody freed was collected, wherever that happened."""
        self._live.pop(address, None)
        self.context.drop("cuMemFree_v2", address)

    def _allocate_host(self, size_bytes: int, name: str) -> Buffer:
        """Pinned memory. Arrays may outlive its buffer, so only `free` gives it back."""
        place = ctypes.c_void_p()
        size = max(size_bytes, 1)
        status = failures.OUT_OF_MEMORY
        if size < 1 << 48:
            status = self.context.library.status(
                "cuMemHostAlloc", ctypes.byref(place), size, HOST_PORTABLE_MAPPED
            )
        if status == failures.OUT_OF_MEMORY:
            raise DoesNotFit(
                f"{human_bytes(size_bytes)} of host memory for {name} cannot be had",
                cause="the system cannot pin so much",
                next="close other programs, or use a smaller --context",
                wanted=size_bytes,
            )
        if status:
            raise self.context.failed(status, "cuMemHostAlloc")
        assert place.value is not None
        address = ctypes.c_uint64()
        self.context.call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), place, 0)
        view = host_bytes(place.value, size)
        view[:] = 0
        held = _Held("cuMemFreeHost", place.value, view, _nothing)
        return Buffer(name, address.value, size_bytes, owner=held)

    def free(self, buffer: Buffer) -> None:
        """Give memory back. Of a card that failed nothing is: its process holds it to the end."""
        held: _Held | None = buffer.owner
        if held is None or self._closed:
            return
        buffer.owner = None
        buffer.size_bytes = 0
        held.detach()
        self._live.pop(held.place, None)
        if self.context.problem is None:
            self._enter()
            self.context.finish("the work before")  # what is queued may still use it
            self.context.call(held.function, held.place)

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any] | None:
        view = self._held(region).view
        if view is None:
            return None
        return view[region.offset : region.offset + region.size_bytes].view(dtype)

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        assert flat.size <= region.size_bytes, region.buffer.name
        view = self._held(region).view
        if view is not None:
            view[region.offset : region.offset + flat.size] = flat
            return
        self._enter()
        self._copies.write(region.address, flat)

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        view = self.host_view(region, dtype)
        if view is not None:
            return view.copy()
        target = np.empty(region.size_bytes, np.uint8)
        self._enter()
        self._copies.read(region.address, target)
        return target.view(dtype)

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        """A copy on the card: reading host memory for every token would be as slow as the link."""
        self._enter()
        self.context.sweep()
        buffer = self._take(data.size, name)
        self._copies.write(buffer.address, data)
        return buffer

    # Programs -------------------------------------------------------------------------------

    def prepare(self, launches: Sequence[Launch]) -> CudaReplay:
        """Raises KernelError for programs of other targets, or that the driver refuses."""
        self._enter()
        self.context.sweep()
        made = 0
        if any(launch.groups for launch in launches):
            made = GraphBuilder(self.context, self._programs).build(launches)
        else:
            for launch in launches:
                self._programs.function(launch.program)
        return CudaReplay(self, launches, made)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.context.problem is None:
            self.context.enter()
            self.context.finish("its last work")
            self.context.sweep()
            for address in self._live:
                self.context.call("cuMemFree_v2", address)
            self._copies.close()
            self._programs.close()
        self._live.clear()
        self.context.close()

    # What is wrong --------------------------------------------------------------------------

    def _enter(self) -> None:
        assert not self._closed, "used after close"
        self.context.enter()

    def _held(self, region: Region) -> _Held:
        held: _Held | None = region.buffer.owner
        assert held is not None, f"{region.buffer.name} has been freed"
        return held

    def _full(self, size: int, name: str) -> DoesNotFit:
        largest = sorted(self._live.values(), key=lambda one: -one[1])[:_NAMED]
        holders = ", ".join(f"{held} {human_bytes(taken)}" for held, taken in largest)
        mine = sum(taken for _, taken in self._live.values())
        free = self.context.free_bytes()
        others = max(self.memory_bytes - free - mine, 0)
        return DoesNotFit(
            f"{human_bytes(size)} for {name} do not fit; the card has {human_bytes(free)} free",
            cause=f"of its {human_bytes(self.memory_bytes)} other programs and the driver have"
            f" {human_bytes(others)}" + (f"; most of ours is {holders}" if holders else ""),
            next="use a smaller --context or a smaller model:  exosuit plan MODEL",
            wanted=size,
            free=free,
        )


class _Held:
    """The memory of a buffer that has not been freed.

    place   what `function` gives back
    view    its bytes, if the host sees them
    detach  keeps it from being given back when the buffer is collected
    """

    def __init__(
        self,
        function: str,
        place: int,
        view: NDArray[np.uint8] | None,
        detach: Callable[[], object],
    ) -> None:
        self.function, self.place, self.view, self.detach = function, place, view, detach


def _nothing() -> None:
    """Host memory waits for `free`."""


class CudaReplay:
    """A graph that is ready. Keeps the buffers of its launches alive."""

    def __init__(self, device: CudaDevice, launches: Sequence[Launch], made: int) -> None:
        self._context = device.context
        self._launches = tuple(launches)
        self._made = made
        self._device = device
        self._finalizer = weakref.finalize(self, _drop, device.context, made)

    def run(self) -> None:
        assert self._finalizer.alive, "replayed after close"
        assert not self._device.is_closed, "replayed after its device was closed"
        if self._made:
            self._context.enter()
            self._context.call("cuGraphLaunch", self._made, self._context.stream)
            self._context.finish("a graph")

    def close(self) -> None:
        self._finalizer()


def _drop(context: Context, made: int) -> None:
    if made:
        context.drop("cuGraphExecDestroy", made)
