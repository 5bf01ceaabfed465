"""SDMA: the packets that the copy engine executes.

The first dword holds opcode and sub-opcode; every packet has a fixed size but those that carry
data. Addresses are virtual. SDMA 6 and SDMA 7 agree on everything given here.

Sources: Linux `sdma_v6_0_0_pkt_open.h`, `sdma_v6_0.c`, `sdma_v7_0.c`; golden submissions observed
from tinygrad's driver.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Packet, Word, bits, flag, u32, u64, word
from exosuit.silicon.amd.pm4 import Compare

MOST_BYTES = 1 << 22
"""Of one COPY_LINEAR, as Linux limits it on these engines; the field would hold 1 GiB."""
INDIRECT_ALIGNMENT = 32


class Opcode(IntEnum):
    """Opcode, and sub-opcode in the second byte."""

    NOP = 0x0000
    COPY_LINEAR = 0x0001
    WRITE_LINEAR = 0x0002
    INDIRECT = 0x0004
    FENCE = 0x0005
    TRAP = 0x0006
    POLL_REGMEM = 0x0008
    ATOMIC = 0x000A
    CONST_FILL = 0x000B
    TIMESTAMP_GLOBAL = 0x020D
    SRBM_WRITE = 0x000E
    GCR_REQ = 0x0011
    DUMMY_TRAP = 0x0020


class Header(Word):
    """First dword; the bits above the sub-opcode differ by packet."""

    op = bits(15, 0, "opcode, and sub-opcode in the second byte", kind=Opcode)
    upper = bits(31, 16)


class Sdma(Packet):
    """The family of everything that a copy ring may hold."""

    header = word(Header)

    @classmethod
    def measure(cls, stream: memoryview) -> tuple[int, int] | None:
        if len(stream) < 4:
            return None
        opcode = int(Header.decode(stream).op)
        kind = cls.FAMILY.get(opcode)
        if kind is None or not issubclass(kind, Sdma):
            return opcode, 4
        extra = kind.extra(stream)
        return None if extra is None else (opcode, kind.SIZE + extra)

    @classmethod
    def extra(cls, stream: memoryview) -> int | None:
        """Bytes after the fixed part of the packet at the start of `stream`; None if cut off."""
        return 0

    def stamp(self, size: int) -> None:
        self.assign(header=Header(op=self.OPCODE or 0))


class NopHeader(Header):
    upper = None
    count = bits(29, 16, "dwords that follow and are skipped")


class Nop(Sdma):
    """Nothing; a zero dword is one, which fills a ring up to its end."""

    OPCODE: ClassVar[int | None] = Opcode.NOP

    @classmethod
    def extra(cls, stream: memoryview) -> int | None:
        return 4 * NopHeader.decode(stream).count

    def stamp(self, size: int) -> None:
        self.assign(header=Header(NopHeader(count=size // 4 - 1)))


class CopyCount(Word):
    count = bits(29, 0, "bytes, less one")


class CopyLinear(Sdma):
    """Copy bytes between any two places."""

    OPCODE: ClassVar[int | None] = Opcode.COPY_LINEAR
    count = word(CopyCount)
    parameters = u32("swap and cache policy, 0")
    source = u64()
    target = u64()


class WriteCount(Word):
    count = bits(19, 0, "dwords that follow, less one")


class WriteLinear(Sdma):
    """Write what follows (`rest`)."""

    OPCODE: ClassVar[int | None] = Opcode.WRITE_LINEAR
    target = u64()
    count = word(WriteCount)

    @classmethod
    def extra(cls, stream: memoryview) -> int | None:
        if len(stream) < cls.SIZE:
            return None
        return 4 * (WriteCount.decode(stream[12:]).count + 1)


class IndirectHeader(Header):
    upper = None
    vmid = bits(19, 16)
    priv = flag(31)


class IndirectSize(Word):
    size = bits(19, 0, "in dwords")


class Indirect(Sdma):
    """Execute packets elsewhere; this one must end at a multiple of 8 dwords of the ring."""

    OPCODE: ClassVar[int | None] = Opcode.INDIRECT
    address = u64("a multiple of INDIRECT_ALIGNMENT")
    size = word(IndirectSize)
    context_save = u64()


class FenceHeader(Header):
    upper = None
    mtype = bits(18, 16, "3: uncached")
    gcc = flag(19)
    sys = flag(20)
    snp = flag(22)
    gpa = flag(23)
    l2_policy = bits(25, 24)


class Fence(Sdma):
    """Write a dword once everything before is done."""

    OPCODE: ClassVar[int | None] = Opcode.FENCE
    target = u64("a multiple of 4")
    value = u32()

    def stamp(self, size: int) -> None:
        self.assign(header=Header(FenceHeader(op=Opcode.FENCE, mtype=3)))


class TrapContext(Word):
    context = bits(27, 0)


class Trap(Sdma):
    """Report to the interrupt ring."""

    OPCODE: ClassVar[int | None] = Opcode.TRAP
    context = word(TrapContext)


class PollHeader(Header):
    upper = None
    hdp_flush = flag(26)
    func = bits(30, 28, kind=Compare)
    mem_poll = flag(31, "memory, not a register")


class PollRetry(Word):
    interval = bits(15, 0)
    retry_count = bits(27, 16, "0xFFF: for ever")


class PollRegMem(Sdma):
    """Hold the ring until a dword compares true."""

    OPCODE: ClassVar[int | None] = Opcode.POLL_REGMEM
    address = u64()
    reference = u32()
    mask = u32()
    retry = word(PollRetry)


class Atomic(Sdma):
    OPCODE: ClassVar[int | None] = Opcode.ATOMIC
    address = u64()
    source = u64()
    compare = u64()
    loop_interval = u32()


class FillHeader(Header):
    upper = None
    fillsize = bits(31, 30, "2: the value is a dword")


class ConstFill(Sdma):
    """Fill with a repeated value."""

    OPCODE: ClassVar[int | None] = Opcode.CONST_FILL
    target = u64()
    value = u32()
    count = word(CopyCount)

    def stamp(self, size: int) -> None:
        self.assign(header=Header(FillHeader(op=Opcode.CONST_FILL, fillsize=2)))


class TimestampGlobal(Sdma):
    """Write the 64-bit clock of 100 MHz."""

    OPCODE: ClassVar[int | None] = Opcode.TIMESTAMP_GLOBAL
    target = u64("a multiple of 8")


class SrbmHeader(Header):
    upper = None
    byte_en = bits(31, 28)


class SrbmWrite(Sdma):
    """Write a register."""

    OPCODE: ClassVar[int | None] = Opcode.SRBM_WRITE
    register = u32()
    value = u32()


class GcrRequest(Sdma):
    """Write back or invalidate caches over a range; word for word as Linux builds it."""

    OPCODE: ClassVar[int | None] = Opcode.GCR_REQ
    payload1 = u32("base address 31:7")
    payload2 = u32("GCR control 15:0, base address 47:32")
    payload3 = u32("limit address 31:7, GCR control 18:16")
    payload4 = u32("limit address 47:32, VMID")


class DummyTrap(Sdma):
    OPCODE: ClassVar[int | None] = Opcode.DUMMY_TRAP
    context = word(TrapContext)
