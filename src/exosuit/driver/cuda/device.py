"""An NVIDIA card as a `Device`, through libcuda.

A replay is one `cuGraphLaunch`; what the host reads every step lies in its own pinned memory, which
kernels write. Everything below the launch is the driver's, so that this device is little more than
names for what libcuda has.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from exosuit.clock import Clock, SystemClock
from exosuit.driver.cuda.context import MULTIPROCESSORS, Context, answers_on_its_bus
from exosuit.driver.cuda.copies import Copies
from exosuit.driver.cuda.library import Library
from exosuit.driver.cuda.memory import Allocation, Memory
from exosuit.driver.cuda.programs import Programs
from exosuit.driver.cuda.replay import GraphBuilder
from exosuit.driver.device import Launch
from exosuit.driver.placed import PlacedDevice
from exosuit.errors import ExosuitError

HANG_S = 30.0


class CudaDevice(PlacedDevice[Allocation]):
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
        self._allocator = Memory(self.context, self.memory_bytes)
        self._staging = Copies(self.context, self._allocator)
        self._programs = Programs(self.context)
        super().__init__(self._allocator, self._staging)

    @property
    def title(self) -> str:
        """The card's name, as its maker has it."""
        return self.context.title

    @property
    def bus_id(self) -> str:
        """Its PCI function."""
        return self.context.bus_id

    @property
    def parallel_groups(self) -> int:
        return 2 * self.multiprocessors

    def prepare(self, launches: Sequence[Launch]) -> CudaReplay:
        """Raises KernelError for programs of other targets, or that the driver refuses."""
        self._check_open()
        self._sweep()
        for launch in launches:
            self._programs.function(launch.program)
        made = 0
        if any(launch.groups for launch in launches):
            made = GraphBuilder(self.context, self._programs).build(launches)
        return CudaReplay(self, launches, made)

    def close(self) -> None:
        if self._closed:
            return
        if self.context.problem is None:
            self.context.enter()
            self.context.finish("its last work")
            self._sweep()
            self._allocator.close()
            self._staging.close()
            self._programs.close()
        self._closed = True
        self.context.close()

    def _take_host(self, size: int, name: str) -> Allocation:
        return self._allocator.take_host(size, name)

    def _problem(self) -> ExosuitError | None:
        return self.context.problem

    def _check_open(self) -> None:
        super()._check_open()
        self.context.enter()

    def _sweep(self) -> None:
        super()._sweep()
        self.context.sweep()


class CudaReplay:
    """A graph that is ready. Keeps the buffers of its launches alive."""

    def __init__(self, device: CudaDevice, launches: Sequence[Launch], made: int) -> None:
        self._context = device.context
        self._device = device
        self._launches = tuple(launches)
        self._made = made
        self._finalizer = weakref.finalize(self, _drop, device.context, made)

    def run(self) -> None:
        assert self._finalizer.alive, "replayed after close"
        assert not self._device.is_closed, "replayed after its device was closed"
        self._context.enter()
        if self._made:
            self._context.call("cuGraphLaunch", self._made, self._context.stream)
            self._context.finish("a graph")

    def close(self) -> None:
        self._finalizer()


def _drop(context: Context, made: int) -> None:
    if made:
        context.drop("cuGraphExecDestroy", made)
