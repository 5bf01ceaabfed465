"""The generic card: a chip of our own, just large enough to exercise a link, a tracer and a server.

It has identity registers, a scratch page, memory, and a copy engine that reads descriptors from a
ring and moves bytes between its own memory and the host's. No such chip is sold; this page is its
whole datasheet, and `softcard.generic` is the only one ever made.

BAR 0 (32-bit, 64 KiB) holds the registers, BAR 2 (64-bit, prefetchable) is a window on its memory
from address 0, BAR 4 (32-bit, 4 KiB) holds one doorbell: a 64-bit write at offset 0 stores the
ring's write pointer, in bytes, never wrapped, and starts the engine.

The engine wants, in this order: bus mastering on in the PCI command register, RING_BASE and
RING_SIZE set, CONTROL.enable set. It stops at a descriptor that it cannot obey, with the reason in
ERROR and STATUS.halted set; writing ones to ERROR lets it go on after that descriptor.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Block, Packet, Word, at, bits, flag, u32, u64, word

VENDOR_ID = 0x1234
DEVICE_ID = 0xE505
CLASS_CODE = 0x120000

REGISTER_BAR = 0
MEMORY_BAR = 2
DOORBELL_BAR = 4
REGISTER_BYTES = 64 << 10
DOORBELL_BYTES = 4096

MAGIC = 0x31_4F_58_45
"""`EXO1` in memory order."""


class Fault(IntEnum):
    """Why the engine stopped."""

    NONE = 0
    BAD_DESCRIPTOR = 1
    OUTSIDE_MEMORY = 2
    OUTSIDE_HOST = 3
    RING_OVERRUN = 4


class Aperture(IntEnum):
    """What an address in a descriptor means."""

    CARD = 0
    HOST = 1


class EngineStatus(Word):
    VERIFIED = "hardware"  # the software card is the hardware
    busy = flag(0, "work left in the ring")
    halted = flag(1, "stopped at a fault")
    waiting = flag(2, "at a WAIT whose value has not come yet")


class EngineControl(Word):
    VERIFIED = "hardware"
    enable = flag(0)
    reset = flag(1, "forget the ring and any fault; reads as 0")


class EngineError(Word):
    VERIFIED = "hardware"
    fault = bits(7, 0, kind=Fault)


class Wide(Word):
    WIDTH = 64
    VERIFIED = "hardware"


class Registers(Block):
    """BAR 0."""

    SIZE = REGISTER_BYTES
    VERIFIED = "hardware"
    IDENTITY = at(0x000, Word, "always MAGIC", access="ro", reset=MAGIC)
    VERSION = at(0x004, Word, access="ro", reset=1)
    MEMORY_SIZE = at(0x008, Word, "in MiB", access="ro")
    STATUS = at(0x00C, EngineStatus, access="ro")
    CONTROL = at(0x010, EngineControl)
    ERROR = at(0x014, EngineError, "write ones to go on", access="w1c")
    ERROR_ADDRESS = at(0x018, Wide, "the address that was refused", access="ro")
    RING_BASE = at(0x020, Wide, "bus address, 4 KiB aligned")
    RING_SIZE = at(0x028, Word, "bytes, a power of two")
    READ_POINTER = at(0x030, Wide, "bytes consumed, never wrapped", access="ro")
    SCRATCH = at(0x1000, Word, "plain storage, survives a reset", count=1024, stride=4)


class Header(Word):
    """First dword of a descriptor."""

    VERIFIED = "hardware"
    opcode = bits(7, 0)
    source = bits(8, 8, kind=Aperture)
    target = bits(9, 9, kind=Aperture)
    size = bits(31, 16, "bytes of the whole descriptor")


class Descriptor(Packet):
    """The family of everything that the ring may hold."""

    header = word(Header)

    @classmethod
    def measure(cls, stream: memoryview) -> tuple[int, int] | None:
        if len(stream) < 4:
            return None
        header = Header.decode(stream)
        return header.opcode, header.size

    def stamp(self, size: int) -> None:
        self.assign(header=Header(opcode=self.OPCODE or 0, size=size))


class Nop(Descriptor):
    """Nothing; fills the ring up to its end, where a descriptor may not wrap."""

    OPCODE: ClassVar[int | None] = 0x01


class Copy(Descriptor):
    """`count` bytes from `source` to `target`, in the apertures that the header names."""

    OPCODE: ClassVar[int | None] = 0x02
    SIZE = 32
    source = u64(at=8)
    target = u64(at=16)
    count = u64(at=24)


class Fill(Descriptor):
    """`count` bytes at `target` set to the repeated dword `value`."""

    OPCODE: ClassVar[int | None] = 0x03
    SIZE = 32
    value = u32(at=4)
    target = u64(at=16)
    count = u64(at=24)


class Fence(Descriptor):
    """The 64-bit `value` written to `target` once everything before is done."""

    OPCODE: ClassVar[int | None] = 0x04
    SIZE = 24
    target = u64(at=8)
    value = u64(at=16)


class Wait(Descriptor):
    """Hold the ring until the 64-bit number at `source` is at least `value`."""

    OPCODE: ClassVar[int | None] = 0x05
    SIZE = 24
    source = u64(at=8)
    value = u64(at=16)
