"""A `Device` that is nothing but the PTX model: no libcuda, no queues, no machine code.

It lets every test of an op run on the PTX of an NVIDIA target in seconds. What ptxas and a card
make of the same text is for a machine with a card to show.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.device import Buffer, Launch, Region
from exosuit.errors import DoesNotFit
from exosuit.softcard.nvidia.ptx.grid import Model, Window
from exosuit.units import GiB, round_up

BASE = 0x7000_0000_0000
_ALIGN = 256


class PtxDevice:
    """Implements `Device` for one sm target."""

    name = "ptx"
    parallel_groups = 4

    def __init__(
        self,
        target: str = "sm_80",
        cache: Path | None = None,
        memory_bytes: int = 2 * GiB,
        threads: int = 2,
    ) -> None:
        self.target = target
        self.memory_bytes = memory_bytes
        self._memory = mmap.mmap(-1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.model = Model([Window(BASE, memory_bytes, self._bytes.ctypes.data)], cache, threads)
        self._free: list[tuple[int, int]] = [(0, memory_bytes)]
        self.lane_instructions = 0

    # Memory -------------------------------------------------------------------------------

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        size = round_up(max(size_bytes, 1), _ALIGN)
        for k, (start, room) in enumerate(self._free):
            if room >= size:
                self._free[k] = (start + size, room - size)
                if not sparse:
                    self._bytes[start : start + size] = 0
                return Buffer(name, BASE + start, size_bytes, owner=host)
        raise DoesNotFit(f"{size_bytes} bytes for {name}", cause="the test's memory", next="more")

    def free(self, buffer: Buffer) -> None:
        start, size = buffer.address - BASE, round_up(max(buffer.size_bytes, 1), _ALIGN)
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
        return self._view(region).view(dtype) if region.buffer.owner else None

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._view(region)[: flat.size] = flat

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        return self._view(region).view(dtype).copy()

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        buffer = self.allocate(data.nbytes, name)
        self.copy_in(buffer.region(), data)
        return buffer

    def _view(self, region: Region) -> NDArray[np.uint8]:
        start = region.address - BASE
        return self._bytes[start : start + region.size_bytes]

    # Programs -----------------------------------------------------------------------------

    def prepare(self, launches: Sequence[Launch]) -> PtxReplay:
        return PtxReplay(self, launches)

    def run(self, launch: Launch) -> None:
        """One launch, to its end."""
        program = launch.program
        function = self.model.load(program.code)[program.entry]
        assert function.entry.shared_bytes <= program.shared_bytes, program.name
        cost = self.model.run(
            function, (launch.groups, 1, 1), (program.group_size, 1, 1), launch.argument_block()
        )
        self.lane_instructions += cost.lane_instructions

    def close(self) -> None:
        """Nothing is open."""


class PtxReplay:
    """Launches, one after the other."""

    def __init__(self, device: PtxDevice, launches: Sequence[Launch]) -> None:
        self._device = device
        self._launches = tuple(launches)

    def run(self) -> None:
        for launch in self._launches:
            self._device.run(launch)

    def close(self) -> None:
        """Nothing is held."""
