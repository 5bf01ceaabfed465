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
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.amd.loader import Image, load
from exosuit.driver.device import Buffer, Launch, Region
from exosuit.errors import DoesNotFit
from exosuit.program import Program
from exosuit.silicon.amd.code import CODE_ALIGNMENT, LDS_GRANULE, Rsrc2
from exosuit.silicon.amd.compute import LARGEST_WAVE_LANES, SCRATCH_GRANULE, TmpringSize
from exosuit.softcard.amd.isa.shaders import Cost, Dispatch, Shaders
from exosuit.units import GiB, round_up

BASE = 0x2000_0000_0000
_PAGE = 4096
_ALIGN = 256
_HUGE = 2 << 20
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


class ShaderDevice:
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
        self.target = target
        self.memory_bytes = memory_bytes
        self._memory = mmap.mmap(
            -1, memory_bytes + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        whole = np.frombuffer(self._memory, np.uint8)
        first = -whole.ctypes.data % _HUGE
        self._bytes = whole[first : first + memory_bytes]
        self.tlb = FlatTlb(self._bytes.ctypes.data, memory_bytes)
        self.shaders = Shaders(target, self.tlb, cache, threads)
        self._free: list[tuple[int, int]] = [(0, memory_bytes)]
        self._programs: dict[bytes, tuple[Image, Buffer]] = {}
        self._scratch: Buffer | None = None
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
        self._bytes[start : start + size] = 0
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

    def close(self) -> None:
        """Nothing is open."""

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
