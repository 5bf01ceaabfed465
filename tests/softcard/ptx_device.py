"""A `Device` that is nothing but the PTX model: no libcuda, no queues, no machine code.

It lets every test of an op run on the PTX of an NVIDIA target in seconds. What ptxas and a card
make of the same text is for a machine with a card to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.softcard.flat_device import FlatDevice

from exosuit.driver.device import Launch
from exosuit.softcard.nvidia.ptx.grid import Model, Window
from exosuit.units import GiB

BASE = 0x7000_0000_0000


class PtxDevice(FlatDevice):
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
        super().__init__(BASE, memory_bytes)
        self.target = target
        self.model = Model([Window(BASE, memory_bytes, self.bytes.ctypes.data)], cache, threads)
        self.lane_instructions = 0

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
