"""IH, the interrupt handler: rings in memory in which the card says what happened.

Entries are 32 bytes. Pointers are byte offsets in the ring. No interrupt need be enabled to read
them.

Sources: Linux `ih_v6_0.c`, `ih_v7_0.c`, `asic_reg/oss/osssys_6_0_0_*.h`, `osssys_7_0_0_*.h`,
`soc15_ih_clientid.h`, `ivsrcid/gfx/irqsrcs_gfx_11_0_0.h`, `soc21_int.h`.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Struct, Word, at, bits, flag, u32, word

ENTRY_BYTES = 32
BUS_ADDRESS, LOCAL_MEMORY = 2, 4
"""Values of `RingControl.mc_space`: where the ring and its write-back lie."""


class RingControl(Word):
    rb_enable = flag(0)
    rb_size = bits(5, 1, "log2 of the ring's dwords")
    wptr_writeback_enable = flag(8)
    rb_full_drain_enable = flag(9)
    full_drain_clear = flag(10)
    page_rb_clear = flag(11)
    rb_used_int_threshold = bits(15, 12)
    wptr_overflow_enable = flag(16)
    enable_intr = flag(17)
    mc_swap = bits(19, 18)
    mc_snoop = flag(20)
    rptr_rearm = flag(21)
    mc_ro = flag(22)
    mc_vmid = bits(27, 24)
    mc_space = bits(30, 28, "4: MC address of local memory; 2: bus address")
    wptr_overflow_clear = flag(31)


class ReadPointer(Word):
    offset = bits(17, 2, "in dwords; the word itself is in bytes")


class WritePointer(Word):
    rb_overflow = flag(0)
    offset = bits(17, 2, "in dwords; the word itself is in bytes")
    rb_left_none = flag(18)
    rb_may_overflow = flag(19)


class RingBase(Word):
    WIDTH = 64
    address = bits(39, 0, "MC address >> 8")


class DoorbellPointer(Word):
    offset = bits(25, 0)
    enable = flag(28)


class StormClients(Word):
    clients = bits(31, 1)


class FloodControl(Word):
    highwater = bits(2, 0)
    flood_cntl_enable = flag(3)
    clear_int_flood_status = flag(4)


class MsiStorm(Word):
    delay = bits(11, 0)


class Ih(Block):
    """OSSSYS 6.0: ring 0 and ring 1."""

    UNIT = 4
    IH_RB_CNTL = at(0x80, RingControl)
    IH_RB_BASE = at(0x81, RingBase)
    IH_RB_RPTR = at(0x83, ReadPointer)
    IH_RB_WPTR = at(0x84, WritePointer)
    IH_RB_WPTR_ADDR_HI = at(0x85, Word)
    IH_RB_WPTR_ADDR_LO = at(0x86, Word)
    IH_DOORBELL_RPTR = at(0x87, DoorbellPointer)
    IH_RB_CNTL_RING1 = at(0x8C, RingControl)
    IH_RB_BASE_RING1 = at(0x8D, RingBase)
    IH_RB_RPTR_RING1 = at(0x8F, ReadPointer)
    IH_RB_WPTR_RING1 = at(0x90, WritePointer)
    IH_DOORBELL_RPTR_RING1 = at(0x93, DoorbellPointer)
    IH_INT_FLOOD_CNTL = at(0xD5, FloodControl)
    IH_STORM_CLIENT_LIST_CNTL = at(0xDA, StormClients)
    IH_MSI_STORM_CTRL = at(0xF1, MsiStorm)


class Ih7(Ih):
    """OSSSYS 7.0: pointers come before the base."""

    IH_RB_RPTR = at(0x81, ReadPointer)
    IH_RB_WPTR = at(0x82, WritePointer)
    IH_RB_BASE = at(0x83, RingBase)
    IH_RB_RPTR_RING1 = at(0x8D, ReadPointer)
    IH_RB_WPTR_RING1 = at(0x8E, WritePointer)
    IH_RB_BASE_RING1 = at(0x8F, RingBase)
    IH_STORM_CLIENT_LIST_CNTL = at(0xAA, StormClients)


class Client(IntEnum):
    """Who reports."""

    IH = 0
    ATHUB = 0x02
    BIF = 0x03
    RLC = 0x07
    GFX = 0x0A
    IMU = 0x0B
    THM = 0x0F
    VMC = 0x12
    GRBM_CP = 0x14
    DF = 0x17
    LSDMA = 0x1A
    MP0 = 0x1E
    MP1 = 0x1F


class Source(IntEnum):
    """What is reported, by GFX and GRBM_CP; the first two by VMC too."""

    PAGE_FAULT = 0
    POISON = 1
    SDMA_TRAP = 49
    SDMA_CONTEXT_EMPTY = 51
    SDMA_DOORBELL_INVALID = 54
    SDMA_QUEUE_HANG = 55
    SDMA_POLL_TIMEOUT = 57
    SDMA_PAGE_TIMEOUT = 58
    SDMA_PAGE_NULL = 59
    SDMA_PAGE_FAULT = 60
    SDMA_VM_HOLE = 61
    SDMA_ECC = 62
    SDMA_FENCE = 67
    CP_GENERIC = 177
    CP_END_OF_PIPE = 181
    CP_BAD_OPCODE = 183
    CP_PRIVILEGED_REGISTER = 184
    CP_PRIVILEGED_INSTRUCTION = 185
    CP_GENERAL_PROTECTION = 195
    CP_FATAL_ERROR = 201
    GRBM_READ_TIMEOUT = 232
    SQ_MESSAGE = 239


class EntryHeader(Word):
    client = bits(7, 0, kind=Client)
    source = bits(15, 8, kind=Source)
    ring = bits(23, 16)
    vmid = bits(27, 24)
    vmid_type = flag(31, "1 for the MM hub")


class Entry(Struct):
    """One report."""

    SIZE = ENTRY_BYTES
    header = word(EntryHeader)
    timestamp_low = u32()
    timestamp_high = u32("in bits 15:0")
    pasid = u32("in bits 15:0; the node in bits 23:16")
    context0 = u32()
    context1 = u32()
    context2 = u32()
    context3 = u32()


class FaultContext1(Word):
    """context1 of a page fault; context0 is address >> 12, low."""

    address_high = bits(3, 0, "address >> 44")


class SqEncoding(IntEnum):
    AUTO = 0
    WAVE = 1
    ERROR = 2


class SqError(IntEnum):
    EDC_FUE = 0
    ILLEGAL_INSTRUCTION = 1
    MEMORY_VIOLATION = 2
    EDC_FED = 3


class SqContext0(Word):
    """context0 of an SQ message."""

    error = bits(24, 21, kind=SqError)


class SqContext1(Word):
    """context1 of an SQ message."""

    encoding = bits(7, 6, kind=SqEncoding)
