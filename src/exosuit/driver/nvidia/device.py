"""An NVIDIA card as a `Device`: memory, programs, and graphs that are replayed with one doorbell.

A replay costs one entry in the ring and four small writes (20 bytes together: a number in the
pushbuffer, the entry, GP_PUT, the doorbell), of which only those cross the link whose place does;
and no read: what the host wants to know, the card writes into host memory.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence

import numpy as np

from exosuit.driver.device import Launch
from exosuit.driver.nvidia.channels import Prepared, Queue
from exosuit.driver.nvidia.copies import Copies
from exosuit.driver.nvidia.loader import CODE_PADDING, Assemble, Loaded, loaded, read
from exosuit.driver.nvidia.replay import Chip, Recorded, descriptor_bytes, fenced, record
from exosuit.driver.nvidia.route import Memory, Route
from exosuit.driver.nvidia.scratch import Scratch
from exosuit.driver.nvidia.waiting import Waiting
from exosuit.driver.placed import PlacedDevice
from exosuit.errors import ExosuitError, KernelError
from exosuit.silicon.nvidia.compute import LOCAL_WINDOW, SHARED_WINDOW, Compute
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.limits import sass_version
from exosuit.silicon.nvidia.push import COMPUTE, COPY, methods, wide
from exosuit.silicon.nvidia.qmd import layout
from exosuit.units import GpuAddress

_COMPUTE_SIGNAL, _COPY_SIGNAL = 0, 1


class NvidiaDevice(PlacedDevice[Memory]):
    """A card that is up. Implements `Device`; closing it stops the route.

    assemble      makes cubins of programs that are none yet
    takes_cubins  whether the card runs machine code; software cards run PTX in its place
    """

    def __init__(self, route: Route, assemble: Assemble, takes_cubins: bool = True) -> None:
        facts = route.facts
        self.name = route.name
        self.target = facts.target
        self.takes_cubins = takes_cubins
        self.memory_bytes = facts.vram_bytes
        self.parallel_groups = 2 * facts.sm_count
        self.route = route
        self.waiting = Waiting(route)
        self.compute = Queue(route, route.compute, self.waiting, _COMPUTE_SIGNAL)
        self._copy_queue = Queue(route, route.copy, self.waiting, _COPY_SIGNAL)
        super().__init__(route, Copies(route, self._copy_queue))
        self._scratch = Scratch(route, self.compute)
        self.assemble = assemble
        sm = int(facts.target.removeprefix("sm_"))
        version = sass_version(facts.sm_version)
        self._chip = Chip(sm, version, layout(route.compute.engine_class))
        self._programs: dict[tuple[bytes, str], Loaded] = {}

    @classmethod
    def start(cls, route: Route, assemble: Assemble, takes_cubins: bool = True) -> NvidiaDevice:
        """Set up both channels and see that they answer; the route is stopped where that fails."""
        try:
            device = cls(route, assemble, takes_cubins)
            device.greet()
        except BaseException:
            with contextlib.suppress(ExosuitError):
                route.stop()
            raise
        return device

    def greet(self) -> None:
        """Bind the channels to their engines, place the windows, and wait for both."""
        self.route.flush()
        compute, copy = self.route.compute.engine_class, self.route.copy.engine_class
        first = self.compute.push(
            methods(COMPUTE, Compute.SET_OBJECT, compute)
            + methods(COMPUTE, Compute.SET_SHADER_LOCAL_MEMORY_WINDOW_A, *wide(LOCAL_WINDOW))
            + methods(COMPUTE, Compute.SET_SHADER_SHARED_MEMORY_WINDOW_A, *wide(SHARED_WINDOW))
        )
        second = self._copy_queue.push(methods(COPY, Copy.SET_OBJECT, copy))
        self.compute.wait(first, "the first words on its compute channel")
        self._copy_queue.wait(second, "the first words on its copy channel")

    def prepare(self, launches: Sequence[Launch]) -> NvidiaReplay:
        """Raises KernelError for programs of other targets, or that want what the card lacks."""
        self._check_open()
        self._sweep()
        live = fenced(launches)
        if not live:
            return NvidiaReplay(self, launches, None, None)
        placed = [self._place(launch) for launch in live]
        self._scratch.provide(max(program.local_bytes for program in placed))
        memory = self.route.take_low(descriptor_bytes(live, self._chip), "replay")
        try:
            made: Recorded = record(live, placed, self._chip, memory.address)
            prepared = self.compute.prepare(made.packets, "replay")
        except ExosuitError:
            self.route.give(memory)
            raise
        self.route.flush()
        self._copies.write(memory.address, np.frombuffer(made.descriptors, np.uint8))
        return NvidiaReplay(self, launches, memory, prepared)

    def run(self, prepared: Prepared) -> None:
        """Run a pushbuffer on the compute channel and return when all it started is done."""
        self._check_open()
        self.route.flush()
        self._copies.finish()  # the channels do not know of each other
        self.compute.wait(self.compute.run(prepared), "a graph")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.route.stop()

    def _take_host(self, size: int, name: str) -> Memory:
        return self.route.take_host(size, name)

    def _problem(self) -> ExosuitError | None:
        return self.waiting.problem

    def _place(self, launch: Launch) -> Loaded:
        """The program in the card's memory, put there on first use."""
        program = launch.program
        if program.target != self.target:
            raise KernelError(
                f"program {program.name!r} is for {program.target}, this device is {self.target}",
                cause="it was compiled for another machine",
                next="compile it for this device's target",
            )
        key = program.code, program.entry
        placed = self._programs.get(key)
        if placed is None:
            kernel = read(program, self._chip.sm, self.assemble)
            size = len(kernel.code) + CODE_PADDING
            memory = self.route.take_low(size, f"program {program.name}")
            self.route.flush()
            self._copies.write(memory.address, np.frombuffer(kernel.code, np.uint8))
            placed = loaded(kernel, self._chip.sm, GpuAddress(memory.address))
            self._programs[key] = placed
        return placed


class NvidiaReplay:
    """Prepared launches. Keeps their buffers alive."""

    def __init__(
        self,
        device: NvidiaDevice,
        launches: Sequence[Launch],
        descriptors: Memory | None,
        prepared: Prepared | None,
    ) -> None:
        self._device = device
        self._launches = tuple(launches)
        self._prepared = prepared
        self._finalizers: list[weakref.finalize[..., NvidiaReplay]] = []
        if descriptors is not None and prepared is not None:
            self._finalizers = [
                weakref.finalize(self, device.drop, memory)
                for memory in (descriptors, prepared.memory)
            ]
        self._is_open = True

    def run(self) -> None:
        assert self._is_open, "replayed after close"
        if self._prepared is not None:
            self._device.run(self._prepared)

    def close(self) -> None:
        self._is_open = False
        for finalizer in self._finalizers:
            finalizer()
