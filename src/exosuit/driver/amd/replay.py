"""Launches as PM4: one indirect buffer in the card's memory that is executed with one packet.

Between launches that depend on each other stands a fence: the queue waits for the waves, and the
shaders' caches forget what they hold. Registers that have their value already are not set again.
Nothing in the buffer changes from replay to replay; what does change lies in the card's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from exosuit.datasheet.registers import Description
from exosuit.driver.amd.loader import Image
from exosuit.driver.device import Launch
from exosuit.errors import KernelError
from exosuit.silicon.amd.code import LDS_GRANULE, Rsrc2
from exosuit.silicon.amd.compute import Compute, TmpringSize, sh_index
from exosuit.silicon.amd.pm4 import (
    ALL_CACHES,
    PARTIAL_FLUSH,
    RELEASE_ALL,
    SHADER_CACHES,
    AcquireMem,
    DispatchDirect,
    DispatchInitiator,
    EventWrite,
    IndirectBuffer,
    IndirectControl,
    ReleaseDatum,
    ReleaseDestination,
    ReleaseMem,
    SetShReg,
)
from exosuit.units import GpuAddress, human_bytes

MOST_DWORDS = IndirectControl.FIELDS["size"].maximum & ~0xFF
"""Of one indirect buffer."""
_INITIATOR = DispatchInitiator(compute_shader_en=True, force_start_at_000=True, cs_w32_en=True)
_EVERYTHING = 0xFFFF_FFFF
_MOST_GROUP = 1024
_ALIGNMENT = 64
ARGUMENT_ALIGNMENT = 16


@dataclass(frozen=True)
class Placed:
    """A program in the card's memory."""

    image: Image
    entry: GpuAddress


@dataclass(frozen=True)
class Scratch:
    """Memory in which waves keep what does not fit into registers."""

    base: GpuAddress
    ring: TmpringSize


class Stream:
    """Packets under construction for launches, which share one queue.

    gc_base  of the GC block's first segment, in dwords
    """

    def __init__(self, registers: type[Compute], gc_base: int, lds_bytes: int) -> None:
        self._registers = registers.REGISTERS
        self._gc_base = gc_base
        self._lds_bytes = lds_bytes
        self._set: dict[int, int] = {}
        self.chunks: list[bytearray] = [bytearray()]
        self.launched = 0

    def begin(self) -> None:
        """Forget everything in caches: copies and the host have written since."""
        self._append(acquire(ALL_CACHES))
        self._write("COMPUTE_RESOURCE_LIMITS", 0)
        self._write("COMPUTE_START_X", 0, 0, 0)
        self._write("COMPUTE_RESTART_X", 0, 0, 0)

    def fence(self) -> None:
        """What follows sees what came before."""
        self._append(bytes(EventWrite.build(event=PARTIAL_FLUSH)))
        self._append(acquire(SHADER_CACHES))

    def launch(
        self, launch: Launch, placed: Placed, arguments: GpuAddress, scratch: Scratch | None
    ) -> None:
        """Start the workgroups of one launch."""
        descriptor = placed.image.descriptor
        program = launch.program
        lds = descriptor.group_segment_bytes
        if lds > self._lds_bytes:
            raise KernelError(
                f"program {program.name!r} wants {human_bytes(lds)} of workgroup memory",
                cause=f"a workgroup of this card has {human_bytes(self._lds_bytes)}",
                next="use smaller tiles or fewer stages in the kernel",
                program=program.name,
                bytes=lds,
            )
        if not 0 < program.group_size <= _MOST_GROUP:
            raise KernelError(
                f"program {program.name!r} has workgroups of {program.group_size} lanes",
                cause=f"this card takes 1 to {_MOST_GROUP}",
                next="use smaller workgroups in the kernel",
                program=program.name,
            )
        self._write("COMPUTE_NUM_THREAD_X", program.group_size, 1, 1)
        self._write("COMPUTE_PGM", placed.entry >> 8 & 0xFFFF_FFFF, placed.entry >> 40)
        granules = -(-lds // LDS_GRANULE)
        rsrc2 = Rsrc2(descriptor.rsrc2, lds_size=granules)
        self._write("COMPUTE_PGM_RSRC1", descriptor.rsrc1, rsrc2)
        self._write("COMPUTE_PGM_RSRC3", descriptor.rsrc3)
        if scratch is not None:
            base = scratch.base >> 8
            self._write("COMPUTE_TMPRING_SIZE", scratch.ring)
            self._write("COMPUTE_DISPATCH_SCRATCH_BASE", base & 0xFFFF_FFFF, base >> 32)
        self._write("COMPUTE_USER_DATA", arguments & 0xFFFF_FFFF, arguments >> 32)
        dispatch = DispatchDirect.build(x=launch.groups, y=1, z=1, initiator=_INITIATOR)
        self._append(bytes(dispatch))
        self.launched += 1

    def _write(self, name: str, *values: int) -> None:
        """Set consecutive registers from `name` on, unless they have these values."""
        description: Description[object] = self._registers[name]  # type: ignore[assignment]
        first = sh_index(description, self._gc_base)
        places = range(first, first + len(values))
        if all(self._set.get(at) == int(value) for at, value in zip(places, values, strict=True)):
            return
        self._set.update((at, int(value)) for at, value in zip(places, values, strict=True))
        data = struct.pack(f"<{len(values)}I", *map(int, values))
        self._append(bytes(SetShReg.build(data, register=first)))

    def _append(self, packet: bytes) -> None:
        if len(self.chunks[-1]) + len(packet) > 4 * MOST_DWORDS:
            self.chunks.append(bytearray())
        self.chunks[-1] += packet


def acquire(caches: int) -> bytes:
    """Invalidate caches over all of memory."""
    return bytes(AcquireMem.build(size_low=_EVERYTHING, size_high=_EVERYTHING, caches=caches))


def release(signal: GpuAddress, value: int) -> bytes:
    """When all is done and visible to everybody, write `value` to `signal`."""
    return bytes(
        ReleaseMem.build(
            control=RELEASE_ALL,
            destination=ReleaseDestination(data_sel=ReleaseDatum.VALUE_64),
            address=signal,
            value=value,
        )
    )


def indirect(address: GpuAddress, size_bytes: int) -> bytes:
    """Execute packets at `address`."""
    control = IndirectControl(size=size_bytes // 4, valid=True)
    return bytes(IndirectBuffer.build(address=address, control=control))


def lay_out(launches: Sequence[Launch]) -> tuple[list[int], bytes]:
    """Offsets of the launches' argument blocks, and the bytes of all of them."""
    data = bytearray()
    offsets: list[int] = []
    for launch in launches:
        data += bytes(-len(data) % ARGUMENT_ALIGNMENT)
        offsets.append(len(data))
        data += launch.argument_block()
    data += bytes(-len(data) % _ALIGNMENT)
    return offsets, bytes(data)
