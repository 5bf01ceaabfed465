"""A `Device` that is nothing but machine code of a card: no PCI, no boot, no queues.

Programs run in the softcard's translator (`softcard.amd.isa`) over one piece of this process's
memory that is mapped at GPU addresses. It lets every test of an op run on gfx11 code in seconds;
that the whole card does the same is for the tests of the driver to show.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tests.softcard.flat_device import FlatDevice

from exosuit.driver.amd.loader import Image, load
from exosuit.driver.device import Buffer, Launch, Region
from exosuit.program import Program
from exosuit.silicon.amd.code import CODE_ALIGNMENT, LDS_GRANULE, Rsrc2
from exosuit.silicon.amd.compute import LARGEST_WAVE_LANES, SCRATCH_GRANULE, TmpringSize
from exosuit.softcard.amd.isa.shaders import Cost, Dispatch, Shaders
from exosuit.units import GiB, round_up

BASE = 0x2000_0000_0000
_PAGE = 4096
_MOST_WAVES = 32 * 4


class FlatTlb:
    """Every page of one piece of host memory, readable, writable and executable.

    base, pages, entries  as `softcard.amd.isa.shaders.Tlb` has them
    faults                addresses outside of it that programs reached for
    """

    base = BASE

    def __init__(self, host: int, size_bytes: int) -> None:
        self.pages = size_bytes // _PAGE
        self.entries = (host + _PAGE * np.arange(self.pages, dtype=np.uint64)) | np.uint64(7)
        self._dummy = mmap.mmap(-1, 2 * _PAGE)
        address = np.frombuffer(self._dummy, np.uint8).ctypes.data
        self._entry = round_up(address, _PAGE) | 7
        self.faults: list[int] = []

    def miss(self, address: int, access: int) -> int:
        del access
        self.faults.append(address)
        return self._entry


class ShaderDevice(FlatDevice):
    """Implements `Device` for one gfx11 target."""

    name = "shaders"
    parallel_groups = 4

    def __init__(
        self,
        target: str = "gfx1100",
        cache: Path | None = None,
        memory_bytes: int = 2 * GiB,
        threads: int = 2,
    ) -> None:
        super().__init__(BASE, memory_bytes)
        self.target = target
        self.tlb = FlatTlb(self.bytes.ctypes.data, memory_bytes)
        self.shaders = Shaders(target, self.tlb, cache, threads)
        self._programs: dict[bytes, tuple[Image, Buffer]] = {}
        self._scratch: Buffer | None = None
        self.lane_instructions = 0

    def prepare(self, launches: Sequence[Launch]) -> ShaderReplay:
        return ShaderReplay(self, launches)

    def run(self, launch: Launch, arguments: Region) -> Cost:
        """One launch, to its end."""
        image, code = self._load(launch.program)
        descriptor, scratch = image.descriptor, 0
        if descriptor.private_segment_bytes:
            wave = round_up(descriptor.private_segment_bytes * LARGEST_WAVE_LANES, SCRATCH_GRANULE)
            scratch = wave // SCRATCH_GRANULE
            if self._scratch is None or self._scratch.size_bytes < wave * _MOST_WAVES:
                self._scratch = self.allocate(wave * _MOST_WAVES, "scratch", sparse=True)
        lds = -(-descriptor.group_segment_bytes // LDS_GRANULE)
        address = arguments.address
        cost = self.shaders.run(
            Dispatch(
                entry=code.address + image.entry_offset,
                rsrc1=int(descriptor.rsrc1),
                rsrc2=int(Rsrc2(int(descriptor.rsrc2)).replace(lds_size=lds)),
                rsrc3=int(descriptor.rsrc3),
                user_data=(address & 0xFFFF_FFFF, address >> 32),
                threads=(launch.program.group_size, 1, 1),
                groups=(launch.groups, 1, 1),
                scratch_base=self._scratch.address if self._scratch else 0,
                tmpring=int(TmpringSize(waves=0, wavesize=scratch)),
            )
        )
        assert not self.tlb.faults, (
            f"{launch.program.name} reached for {[hex(x) for x in self.tlb.faults[:4]]}"
        )
        self.lane_instructions += cost.lane_instructions
        return cost

    def _load(self, program: Program) -> tuple[Image, Buffer]:
        known = self._programs.get(program.code)
        if known is None:
            image = load(program.code, program.entry, self.target)
            padded = np.frombuffer(image.bytes, np.uint8)
            code = self.allocate(padded.size, program.name)
            assert code.address % CODE_ALIGNMENT == 0
            self.copy_in(code.region(), padded)
            known = self._programs[program.code] = image, code
        return known


class ShaderReplay:
    """Launches with their argument blocks in the device's memory."""

    def __init__(self, device: ShaderDevice, launches: Sequence[Launch]) -> None:
        self._device = device
        self._launches = tuple(launches)
        blocks = [launch.argument_block() for launch in launches]
        places = np.cumsum([0] + [round_up(len(block), 64) for block in blocks])
        self._buffer = device.allocate(int(places[-1]) + 64, "arguments")
        self._arguments = [
            self._buffer.region(int(place), round_up(len(block), 64))
            for place, block in zip(places, blocks, strict=False)
        ]
        for region, block in zip(self._arguments, blocks, strict=True):
            padded = struct.pack(f"{region.size_bytes}s", block)
            device.copy_in(region, np.frombuffer(padded, np.uint8))

    def run(self) -> None:
        for launch, arguments in zip(self._launches, self._arguments, strict=True):
            self._device.run(launch, arguments)

    def close(self) -> None:
        self._device.free(self._buffer)
