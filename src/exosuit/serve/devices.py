"""The devices of a server: opened when first needed, shared by engine threads, set aside when lost.

A model works on a `Lease`, which is a `Device`: each call has the real one alone, in the order of
asking, so that one model's tokens pass between another's. What is allocated is counted, and once
the device was lost everybody is told so at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.device import Buffer, Device, Launch, Region, Replay, takes_cubins
from exosuit.errors import CardBusy, CardError, ExosuitError, LinkError
from exosuit.link.function import Counters
from exosuit.serve.facts import DeviceInfo
from exosuit.units import GiB, MiB

LOST = (CardError, LinkError)
"""What a device raises when it can no longer be trusted."""

FORGIVEN_AFTER_S = 60.0
"""A lost device is tried again by a model that is loaded so much later."""

CARD_RESERVE_BYTES = 768 * MiB
HOST_RESERVE_BYTES = 2 * GiB
"""What is left of a device's memory for everything else."""


class Turns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        mine.acquire()

    def __exit__(self, *problem: object) -> None:
        with self._guard:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._held = False


class SharedDevice:
    """A device, and whose turn it is. Each model works through a `Lease` of its own.

    problem     why the device was lost; None as long as it works
    used_bytes  of all leases
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.used_bytes = 0
        self.problem: ExosuitError | None = None
        self.lost_at = 0.0
        self.turns = Turns()
        # Asked for once: a lost card cannot be asked.
        self.name = device.name
        self.target = device.target
        self.memory_bytes = device.memory_bytes
        self.parallel_groups = device.parallel_groups
        self.takes_cubins = takes_cubins(device)

    @property
    def free_bytes(self) -> int:
        """What models may still take."""
        reserve = HOST_RESERVE_BYTES if self.name == "cpu" else CARD_RESERVE_BYTES
        return max(0, self.memory_bytes - min(reserve, self.memory_bytes // 4) - self.used_bytes)

    @property
    def link(self) -> dict[str, int]:
        """What crossed the way to the card so far; {} where there is none."""
        counters = getattr(getattr(self.device, "link", None), "counters", None)
        return asdict(counters) if isinstance(counters, Counters) else {}

    @contextmanager
    def alone(self) -> Generator[Device]:
        """The device for one call; raises why it was lost, and notes it if it is lost now."""
        with self.turns:
            if self.problem is not None:
                raise self.problem
            try:
                yield self.device
            except LOST as problem:
                self.lose(problem)
                raise

    def lose(self, problem: ExosuitError) -> None:
        """It can no longer be trusted, for this reason."""
        self.problem, self.lost_at = problem, time.monotonic()

    @contextmanager
    def leaving(self) -> Generator[Device | None]:
        """The device for giving something back; None if it was lost, which frees everything."""
        with self.turns:
            try:
                yield None if self.problem is not None else self.device
            except LOST as problem:
                self.lose(problem)

    def close(self) -> None:
        """Also of a lost one: its lock and its link go, so that it can be opened again."""
        with self.turns, suppress(*LOST):
            self.device.close()


class Lease:
    """Implements `Device` for one model; closing it frees what the model left, not the device."""

    def __init__(self, shared: SharedDevice) -> None:
        self._shared = shared
        self._buffers: dict[int, Buffer] = {}
        self.used_bytes = 0
        self.name = shared.name
        self.target = shared.target
        self.memory_bytes = shared.memory_bytes
        self.parallel_groups = shared.parallel_groups
        self.takes_cubins = shared.takes_cubins

    @property
    def problem(self) -> ExosuitError | None:
        return self._shared.problem

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        with self._shared.alone() as device:
            buffer = device.allocate(size_bytes, name, sparse, host)
            self._buffers[id(buffer)] = buffer
            self._count(size_bytes)
            return buffer

    def free(self, buffer: Buffer) -> None:
        with self._shared.leaving() as device:
            if self._buffers.pop(id(buffer), None) is not None:  # else it was imported
                self._count(-buffer.size_bytes)
            if device is not None:
                device.free(buffer)

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any] | None:
        with self._shared.alone() as device:
            return device.host_view(region, dtype)

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        with self._shared.alone() as device:
            device.copy_in(region, data)

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        with self._shared.alone() as device:
            return device.copy_out(region, dtype)

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        with self._shared.alone() as device:
            return device.import_host(data, name)

    def prepare(self, launches: Sequence[Launch]) -> Replay:
        with self._shared.alone() as device:
            return _SharedReplay(self._shared, device.prepare(launches))

    def close(self) -> None:
        for buffer in list(self._buffers.values()):
            self.free(buffer)

    def _count(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self._shared.used_bytes += size_bytes


class _SharedReplay:
    def __init__(self, shared: SharedDevice, replay: Replay) -> None:
        self._shared = shared
        self._replay = replay

    def run(self) -> None:
        with self._shared.alone():
            self._replay.run()

    def close(self) -> None:
        with self._shared.leaving() as device:
            if device is not None:
                self._replay.close()


class Devices:
    """The devices by name, best first. Any thread may ask.

    names   as in `--device`; the last one is what everything falls back to
    opener  opens one; it may take seconds
    """

    def __init__(self, names: Sequence[str], opener: Callable[[str], Device]) -> None:
        assert names
        self._names = tuple(dict.fromkeys(names))
        self._opener = opener
        self._guard = threading.Lock()
        self._open: dict[str, SharedDevice] = {}
        self._failed: dict[str, tuple[ExosuitError, float]] = {}

    def usable(self) -> list[str]:
        """Names of devices that were not lost, best first."""
        return [name for name in self._names if self._problem(name) is None]

    def get(self, name: str) -> SharedDevice:
        """The device, opened now if it was not; raises what opening raises, or why it was lost."""
        with self._guard:
            problem = self._problem(name)
            if problem is not None:
                raise problem
            if name not in self._open:
                try:
                    self._open[name] = SharedDevice(self._opener(name))
                except CardBusy:  # its owner may leave
                    raise
                except LOST as problem:
                    self._failed[name] = problem, time.monotonic()
                    raise
            return self._open[name]

    def why(self) -> ExosuitError | None:
        """Why the best device is not used; None if it is fine."""
        return self._problem(self._names[0])

    def forgive(self, after_s: float | None = None) -> None:
        """Try again, when next asked for, what was lost so long ago: a cable may be back."""
        before = time.monotonic() - (FORGIVEN_AFTER_S if after_s is None else after_s)
        with self._guard:
            for name, (_, lost_at) in list(self._failed.items()):
                if lost_at <= before:
                    del self._failed[name]
            for name, device in list(self._open.items()):
                if device.problem is not None and device.lost_at <= before:
                    del self._open[name]
                    device.close()

    def describe(self) -> list[DeviceInfo]:
        rows: list[DeviceInfo] = []
        for name in self._names:
            device, problem = self._open.get(name), self._problem(name)
            rows.append(
                DeviceInfo(
                    name=name,
                    target=device.target if device else "",
                    memory_bytes=device.memory_bytes if device else 0,
                    used_bytes=device.used_bytes if device else 0,
                    state="lost" if problem else "ready" if device else "closed",
                    why=problem.what if problem else "",
                    link=device.link if device else {},
                )
            )
        return rows

    def close(self) -> None:
        with self._guard:
            for device in self._open.values():
                device.close()
            self._open.clear()

    def _problem(self, name: str) -> ExosuitError | None:
        device, failed = self._open.get(name), self._failed.get(name)
        return failed[0] if failed else device.problem if device else None
