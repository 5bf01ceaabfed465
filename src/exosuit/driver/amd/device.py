"""An AMD card as a `Device`: memory, programs, and graphs that are replayed with one doorbell.

A replay costs the link one small write where host memory is mapped, three of together 64 bytes
where every access is a request, and no read: what the host wants to know, the card writes into host
memory.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence

import numpy as np

from exosuit.driver.amd.card import Card
from exosuit.driver.amd.loader import load
from exosuit.driver.amd.replay import (
    Placed,
    Scratch,
    Stream,
    acquire,
    indirect,
    lay_out,
    release,
)
from exosuit.driver.amd.ring import COMPUTE_SIGNAL, Seen
from exosuit.driver.device import Launch
from exosuit.driver.memory import Allocation
from exosuit.driver.placed import PlacedDevice
from exosuit.driver.timeline import has_passed
from exosuit.errors import ExosuitError, KernelError
from exosuit.link.function import PciFunction
from exosuit.silicon.amd.code import PREFETCH_BYTES
from exosuit.silicon.amd.compute import (
    LARGEST_WAVE_LANES,
    SCRATCH_GRANULE,
    Compute,
    Compute12,
    TmpringSize,
    TmpringSize12,
)
from exosuit.silicon.amd.pm4 import ALL_CACHES
from exosuit.units import GpuAddress, round_up

_COMPUTE = {11: Compute, 12: Compute12}
_TMPRING = {11: TmpringSize, 12: TmpringSize12}
_DWORD = 4


class AmdDevice(PlacedDevice[Allocation]):
    """A booted card. Implements `Device`; closing it stops the card and closes the link."""

    def __init__(self, link: PciFunction, card: Card) -> None:
        super().__init__(card.memory, card.copies)
        self.name = link.name
        self.target = card.registers.kinds.target
        self.card = card
        self.link = link
        self._programs: dict[tuple[bytes, str], Placed] = {}
        self._scratch: dict[int, Scratch] = {}
        self._value = 0
        self._copies_seen = 0

    @classmethod
    def boot(cls, link: PciFunction, card: Card) -> AmdDevice:
        """Boot the card behind `link`; the link is closed where that fails."""
        try:
            card.boot()
        except BaseException:
            with contextlib.suppress(ExosuitError):
                card.stop()
            link.close()
            raise
        return cls(link, card)

    @property
    def memory_bytes(self) -> int:
        return self.card.memory.local_bytes

    @property
    def parallel_groups(self) -> int:
        return 2 * self.card.discovery.shaders.compute_units

    def prepare(self, launches: Sequence[Launch]) -> AmdReplay:
        """Raises KernelError for programs of other targets, or that want what the card lacks."""
        self._check_open()
        self._sweep()
        live = [launch for launch in launches if launch.groups > 0]
        placed = [self._place(launch) for launch in live]
        offsets, arguments = lay_out(live)
        ip = self.card.registers.graphics
        lds = self.card.discovery.shaders.lds_bytes
        size = len(arguments) + _estimate(live)
        memory = self.card.memory.take(size, "replay")
        stream = Stream(_COMPUTE[self.card.registers.generation], ip.bases[0], lds)
        fence = False
        stream.begin()
        try:
            for launch in launches:
                fence = fence or launch.fence
                if launch.groups == 0:
                    continue
                index = stream.launched
                if fence and index:
                    stream.fence()
                fence = False
                scratch = self._scratch_for(placed[index])
                at = GpuAddress(memory.address + offsets[index])
                stream.launch(launch, placed[index], at, scratch)
        except ExosuitError:
            self.card.memory.give(memory)
            raise
        packets: list[bytes] = []
        data = bytearray(arguments)
        for chunk in stream.chunks:
            packets.append(indirect(GpuAddress(memory.address + len(data)), len(chunk)))
            data += chunk
            data += bytes(-len(data) % 64)
        assert len(data) <= memory.reserved, (len(data), memory.reserved)
        self.card.memory.flush()
        self.card.copies.write(memory.address, np.frombuffer(bytes(data), np.uint8))
        return AmdReplay(self, launches, memory, b"".join(packets) if live else b"")

    def run(self, packets: bytes) -> None:
        """Submit packets to the compute queue and return when all they started is done."""
        self._check_open()
        self.card.memory.flush()
        copies = self.card.copies
        copies.finish()  # the queues do not know of each other
        if copies.submitted != self._copies_seen:
            # What was copied may be the very packets that are executed next.
            packets = acquire(ALL_CACHES) + packets
            self._copies_seen = copies.submitted
        self._value += 1
        value = self._value
        signal = GpuAddress(self.card.page.address + COMPUTE_SIGNAL)
        waiting = self.card.waiting

        def reached(seen: Seen) -> bool:
            return has_passed(seen.compute, value)

        self.card.compute.submit(
            packets + release(signal, value),
            lambda fits: waiting.until(lambda seen: fits(), "room in its queue"),
        )
        waiting.until(reached, "a graph")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self.card.stop()
        finally:
            self.link.close()

    def _place(self, launch: Launch) -> Placed:
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
            image = load(program.code, program.entry, self.target)
            memory = self.card.memory.take(
                len(image.bytes) + PREFETCH_BYTES, f"program {program.name}"
            )
            self.card.memory.flush()
            self.card.copies.write(memory.address, np.frombuffer(image.bytes, np.uint8))
            placed = Placed(image, GpuAddress(memory.address + image.entry_offset))
            self._programs[key] = placed
        return placed

    def _scratch_for(self, placed: Placed) -> Scratch | None:
        """Scratch memory for every wave that the card can hold at once, where any is needed."""
        lane_bytes = placed.image.descriptor.private_segment_bytes
        if lane_bytes == 0:
            return None
        lane_bytes = max(1 << (lane_bytes - 1).bit_length(), _DWORD)
        scratch = self._scratch.get(lane_bytes)
        if scratch is None:
            shaders = self.card.discovery.shaders
            wave = round_up(lane_bytes * LARGEST_WAVE_LANES, SCRATCH_GRANULE)
            most = shaders.compute_units * shaders.max_scratch_slots_per_cu
            kind = _TMPRING[self.card.registers.generation]
            waves = min(most // shaders.shader_engines, kind.FIELDS["waves"].maximum)
            memory = self.card.memory.take(wave * waves * shaders.shader_engines, "scratch")
            ring = kind(waves=waves, wavesize=wave // SCRATCH_GRANULE)
            scratch = Scratch(memory.address, ring)
            self._scratch[lane_bytes] = scratch
        return scratch

    def _take_host(self, size: int, name: str) -> Allocation:
        return self.card.memory.take_host(self.link, size, name)

    def _problem(self) -> ExosuitError | None:
        return self.card.waiting.problem


class AmdReplay:
    """Prepared launches. Keeps their buffers alive."""

    def __init__(
        self, device: AmdDevice, launches: Sequence[Launch], memory: Allocation, packets: bytes
    ) -> None:
        self._device = device
        self._launches = tuple(launches)
        self._packets = packets
        self._finalizer = weakref.finalize(self, device.drop, memory)

    def run(self) -> None:
        assert self._finalizer.alive, "replayed after close"
        if self._packets:
            self._device.run(self._packets)

    def close(self) -> None:
        self._finalizer()


def _estimate(launches: Sequence[Launch]) -> int:
    """Bytes that a stream of these launches takes at most."""
    return 512 + 192 * len(launches)
