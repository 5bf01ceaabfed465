"""A `Route` without bring-up: the executor of software cards over flat memory, straight from tests.

Neither a kernel driver nor firmware stands between; what the device puts into memory, rings and
doorbells is executed as it is. Local memory and host memory are two runs of GPU addresses with a
hole after each buffer. Everything that would cross a link is counted.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exosuit.clock import Clock, ManualClock
from exosuit.driver.faults import Named, nearest
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.driver.nvidia.route import PAGE, Channel, Facts, Memory
from exosuit.driver.ranges import Ranges
from exosuit.errors import CardHung, DoesNotFit, ExosuitError, PageFault
from exosuit.program import Program
from exosuit.silicon.nvidia.channel import Userd
from exosuit.silicon.nvidia.limits import sm_of
from exosuit.softcard.nvidia.executor.channel import ChannelSetup
from exosuit.softcard.nvidia.executor.faults import Fault, MmuFault
from exosuit.softcard.nvidia.executor.memory import MemoryFault
from exosuit.softcard.nvidia.executor.runlist import Executor
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.softcard.nvidia.image import stand_in
from exosuit.softcard.nvidia.ptx.grid import Window
from exosuit.softcard.timing import Meter, find_model
from exosuit.units import GiB, GpuAddress, MiB, human_bytes, round_up

LOCAL, HOST = 0x10_0000_0000, 0x20_0000_0000
HOST_BYTES = 256 * MiB
ENTRIES = 64
COMPUTE_CHANNEL, COPY_CHANNEL = 3, 4


@dataclass(frozen=True)
class Kind:
    """A chip, by the facts that differ."""

    sm_version: int
    compute: int
    copy: int
    gpfifo: int

    @property
    def sm(self) -> int:
        found = sm_of(self.sm_version)
        assert found is not None
        return found


KINDS = {
    "sm_86": Kind(0x806, 0xC7C0, 0xC7B5, 0xC56F),
    "sm_89": Kind(0x809, 0xC9C0, 0xC7B5, 0xC56F),
    "sm_90": Kind(0x900, 0xCBC0, 0xC8B5, 0xC86F),
    "sm_120": Kind(0xA04, 0xCEC0, 0xCAB5, 0xCA6F),
}


class Refused(AssertionError):
    """The card notes something that a driver should not do."""


class FlatMemory:
    """Two runs of bytes, of which only what is mapped can be reached."""

    def __init__(self, local_bytes: int) -> None:
        self.runs = {
            start: mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for start, size in ((LOCAL, local_bytes), (HOST, HOST_BYTES))
        }
        self.mapped: dict[int, int] = {}
        self._windows: list[Window] = []

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._view(address, size, False))

    def write(self, address: int, data: bytes) -> None:
        self._view(address, len(data), True)[:] = data

    def windows(self) -> Sequence[Window]:
        if not self._windows:
            self._windows = [
                Window(start, size, self._host(start))
                for start, size in sorted(self.mapped.items())
            ]
        return self._windows

    def host_bytes(self, address: int, size: int) -> int:
        return size if address >= HOST else 0

    def map(self, address: int, size: int) -> memoryview:
        self.mapped[address] = size
        self._windows = []
        return self._view(address, size, True)

    def unmap(self, address: int) -> None:
        del self.mapped[address]
        self._windows = []

    def _view(self, address: int, size: int, write: bool) -> memoryview:
        for start, length in self.mapped.items():
            if start <= address and address + size <= start + length:
                base = HOST if address >= HOST else LOCAL
                return memoryview(self.runs[base])[address - base :][:size]
        raise MemoryFault(address, write, "nothing is mapped")

    def _host(self, address: int) -> int:
        base = HOST if address >= HOST else LOCAL
        return np.frombuffer(self.runs[base], np.uint8).ctypes.data + address - base


@dataclass
class Counted:
    """What would cross a link that maps nothing: writes, their bytes, and reads."""

    writes: int = 0
    written: int = 0
    reads: int = 0


class Pinned:
    """Host memory of a route; `view` only where it is mapped into this process."""

    def __init__(self, bytes_: memoryview, counted: Counted, is_mapped: bool) -> None:
        self._bytes = bytes_
        self._counted = counted
        self.view = bytes_ if is_mapped else None

    def read(self, offset: int, size: int) -> bytes:
        if self.view is None:
            assert offset % 4 == 0
            assert size % 4 == 0
        self._counted.reads += 1
        return bytes(self._bytes[offset : offset + size])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        flat = memoryview(data).cast("B")
        if self.view is None:
            assert offset % 4 == 0
            assert len(flat) % 4 == 0
        self._counted.writes += 1
        self._counted.written += len(flat)
        self._bytes[offset : offset + len(flat)] = flat

    def read32(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))


class FlatRoute:
    """Implements `Route`. Strict: what a driver should not do raises Refused."""

    def __init__(
        self,
        target: str = "sm_86",
        local_bytes: int = 1 * GiB,
        cache: Path | None = None,
        is_mapped: bool = True,
        is_late: bool = True,
        clock: Clock | None = None,
        link: str = "slot",
    ) -> None:
        kind = KINDS[target]
        self.name = f"flat:{target}"
        self.clock = clock or ManualClock()
        self.hang_s = 20.0
        self.counted = Counted()
        self.doorbells = 0
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.is_stopped = False
        self.taken: dict[int, Memory] = {}
        self.memory = FlatMemory(local_bytes)
        self._is_mapped = is_mapped
        self._local = Ranges(LOCAL, LOCAL + local_bytes)
        self._host = Ranges(HOST, HOST + HOST_BYTES)
        self.facts = Facts(
            chip="flat", target=target, sm_version=kind.sm_version, compute_class=kind.compute,
            copy_class=kind.copy, gpfifo_class=kind.gpfifo, sm_count=8, gpcs=2, tpcs_per_gpc=2,
            sms_per_tpc=2, max_warps_per_sm=64 if kind.sm == 90 else 48, vram_bytes=local_bytes,
        )  # fmt: skip
        shape = Shape(kind.sm, kind.sm_version, 2, 2, 2, 8, 1500.0, 500e9)
        self.meter = Meter(find_model(link))
        self.executor = Executor(
            shape, self.meter, refuse=self._refuse, faulted=self.faults.append, cache=cache,
            threads=2, late=is_late,
        )  # fmt: skip
        self.compute = self._channel("compute", COMPUTE_CHANNEL, kind.compute, kind.gpfifo)
        self.copy = self._channel("copy", COPY_CHANNEL, kind.copy, kind.gpfifo)

    def take(self, size: int, name: str) -> Memory:
        reserved = round_up(max(size, 1), PAGE)
        start = self._local.take(reserved + PAGE, PAGE) if reserved < 1 << 60 else None
        if start is None:
            raise DoesNotFit(
                f"{human_bytes(size)} for {name} do not fit",
                cause=f"{human_bytes(self._local.free_bytes)} are free",
                next="less",
            )
        return self._keep(Memory(name, GpuAddress(start), size, reserved))

    take_low = take

    def take_host(self, size: int, name: str) -> Memory:
        reserved = round_up(max(size, 1), PAGE)
        start = self._host.take(reserved + PAGE, PAGE) if reserved < 1 << 60 else None
        if start is None:
            raise DoesNotFit(f"{human_bytes(size)} for {name}", cause="host memory", next="less")
        view = self.memory.map(start, reserved)
        view[:] = bytes(reserved)
        pinned = Pinned(view[: round_up(size, 4)], self.counted, self._is_mapped)
        return self._keep(Memory(name, GpuAddress(start), size, reserved, pinned))

    def give(self, memory: Memory) -> None:
        del self.taken[memory.address]
        self.memory.unmap(memory.address)
        ranges = self._local if memory.host is None else self._host
        ranges.give(memory.address, memory.reserved + PAGE)

    def flush(self) -> None:
        """Nothing is kept."""

    def ring_doorbell(self, token: int) -> None:
        self.doorbells += 1
        self.counted.writes += 1
        self.counted.written += 4
        assert self.executor.ring_doorbell(token)
        if not self.executor.late:
            self.executor.run()

    def check(self) -> None:
        if self.faults:
            raise explain(self.faults[0], [*self.taken.values()])

    def stop(self) -> None:
        self.is_stopped = True

    def _keep(self, memory: Memory) -> Memory:
        if memory.host is None:
            view = self.memory.map(memory.address, memory.reserved)
            view[:4096] = b"\xa5" * 4096  # local memory is what it was
        self.taken[memory.address] = memory
        return memory

    def _channel(self, name: str, number: int, engine_class: int, gpfifo: int) -> Channel:
        ring = self.take_host(8 * ENTRIES, f"ring of {name}")
        userd = self.take_host(Userd.SIZE, f"USERD of {name}")
        assert isinstance(ring.host, Pinned)
        assert isinstance(userd.host, Pinned)
        # The card reads its side of USERD, which costs the host's link nothing.
        block = Pinned(self.memory.map(userd.address, PAGE), Counted(), True)
        setup = ChannelSetup(
            number=number, group=1, ring=ring.address, entries=ENTRIES, userd=block,
            memory=self.memory, gpfifo_class=gpfifo, classes={engine_class}, is_enabled=True,
        )  # fmt: skip
        self.executor.add(setup)
        return Channel(name, engine_class, ring.host, ENTRIES, userd.host, number)

    def _refuse(self, what: str) -> None:
        self.notes.append(what)
        raise Refused(what)


class RunningClock(ManualClock):
    """Lets a late card work whenever the host pauses."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.work()
        super().sleep(seconds)


def assemble(program: Program) -> bytes:
    return stand_in(program.code, program.entry, program.target)


def explain(fault: Fault, buffers: list[Memory]) -> ExosuitError:
    if isinstance(fault, MmuFault):
        where = nearest(fault.address, [Named(b.name, b.address, b.size) for b in buffers])
        return PageFault(fault.detail, cause=where, next="report it", address=fault.address)
    return CardHung(fault.detail, cause=fault.XID.name, next="report it")


def start(target: str = "sm_86", **options: object) -> NvidiaDevice:
    """A device over a late card: nothing happens there before the host looks or pauses."""
    clock = RunningClock()
    route = FlatRoute(target, clock=clock, **options)  # type: ignore[arg-type]
    clock.work = route.executor.run
    return NvidiaDevice.start(route, assemble, takes_cubins=False)


def start_other(target: str, compiled_for: str, **options: object) -> NvidiaDevice:
    """The same, but it takes PTX made for another target, so that one translation does for many."""
    device = start(target, **options)
    device.target = compiled_for
    device.assemble = lambda program: stand_in(program.code, program.entry, target)
    return device
