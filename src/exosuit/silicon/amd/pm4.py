"""PM4: the packets that the MEC's compute queues execute.

A packet is a type-3 header and its payload in dwords. Registers are addressed relative to the
window of the packet that sets them. GFX 11 and GFX 12 agree on everything given here.

Sources: Linux `nvd.h`, `soc15d.h`; the packet headers of AMD's ROCr and of tinygrad's autogen,
against which the tests compare; golden stream observed from tinygrad's boot of gfx1100.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from exosuit.datasheet import Packet, Word, bits, flag, u32, u64, word

SH_WINDOW = 0x2C00
"""First register, absolute and in dwords, of SET_SH_REG; 0x400 of them."""
UCONFIG_WINDOW = 0xC000
FILLER = 0xFFFF1000
"""A NOP of one dword, header included."""
HDP_FLUSH_REQUEST = 0xE26
HDP_FLUSH_DONE = 0xE27
"""Absolute registers (NBIO segment 2) by which a queue asks for a flush of the host's writes."""


class Opcode(IntEnum):
    NOP = 0x10
    DISPATCH_DIRECT = 0x15
    ATOMIC_MEM = 0x1E
    PRED_EXEC = 0x23
    WRITE_DATA = 0x37
    WAIT_REG_MEM = 0x3C
    INDIRECT_BUFFER = 0x3F
    COPY_DATA = 0x40
    EVENT_WRITE = 0x46
    RELEASE_MEM = 0x49
    ACQUIRE_MEM = 0x58
    SET_SH_REG = 0x76
    SET_UCONFIG_REG = 0x79


class Header(Word):
    opcode = bits(15, 8, kind=Opcode)
    count = bits(29, 16, "dwords of the payload, less one; 0x3FFF for none")
    type = bits(31, 30, "3 for everything that a driver writes")


class Pm4(Packet):
    """The family of everything that a compute ring may hold."""

    header = word(Header)

    @classmethod
    def measure(cls, stream: memoryview) -> tuple[int, int] | None:
        if len(stream) < 4:
            return None
        header = Header.decode(stream)
        if header.type == 2 or header == FILLER:
            return Opcode.NOP, 4
        if header.type != 3:
            return -header.type - 1, 4
        return int(header.opcode), 4 * (header.count + 2)

    def stamp(self, size: int) -> None:
        self.assign(header=Header(type=3, opcode=self.OPCODE or 0, count=size // 4 - 2))


class Nop(Pm4):
    """Nothing; `rest` is skipped."""

    OPCODE: ClassVar[int | None] = Opcode.NOP


class DispatchInitiator(Word):
    compute_shader_en = flag(0)
    partial_tg_en = flag(1)
    force_start_at_000 = flag(2)
    ordered_append_en = flag(3)
    use_thread_dimensions = flag(5, "x, y and z count work-items, not workgroups")
    order_mode = flag(6)
    scalar_l1_inv_vol = flag(10)
    vector_l1_inv_vol = flag(11)
    restore = flag(14)
    cs_w32_en = flag(15, "waves of 32 lanes")


class DispatchDirect(Pm4):
    """Start `x` by `y` by `z` workgroups of the program in the COMPUTE registers."""

    OPCODE: ClassVar[int | None] = Opcode.DISPATCH_DIRECT
    x = u32()
    y = u32()
    z = u32()
    initiator = word(DispatchInitiator)


class WriteTarget(IntEnum):
    REGISTER = 0
    L2 = 2
    MEMORY = 5


class WriteControl(Word):
    dst_sel = bits(11, 8, kind=WriteTarget)
    one_address = flag(16, "every dword to the same place")
    wr_confirm = flag(20)
    cache_policy = bits(26, 25)
    engine_sel = bits(31, 30)


class WriteData(Pm4):
    """Write what follows (`rest`) to memory or registers."""

    OPCODE: ClassVar[int | None] = Opcode.WRITE_DATA
    control = word(WriteControl)
    address = u64("in bytes, or a register")


class Compare(IntEnum):
    """Comparison of unsigned 32-bit numbers: (value & mask) ... reference."""

    ALWAYS = 0
    LESS = 1
    LESS_EQUAL = 2
    EQUAL = 3
    NOT_EQUAL = 4
    GREATER_EQUAL = 5
    GREATER = 6


class WaitOperation(IntEnum):
    WAIT = 0
    WRITE_THEN_WAIT = 1
    """Write the reference to the first register, then wait for the second."""


class WaitControl(Word):
    function = bits(2, 0, kind=Compare)
    mem_space = flag(4, "0: registers, 1: memory")
    operation = bits(7, 6, kind=WaitOperation)
    engine = bits(8, 8)
    cache_policy = bits(26, 25)


class WaitRegMem(Pm4):
    """Hold the queue until a dword in memory or a register compares true."""

    OPCODE: ClassVar[int | None] = Opcode.WAIT_REG_MEM
    control = word(WaitControl)
    address = u64("in bytes; or one register in each half")
    reference = u32()
    mask = u32()
    interval = u32("between polls, in 16 clocks")


class IndirectControl(Word):
    size = bits(19, 0, "in dwords")
    chain = flag(20, "go there instead of coming back")
    offload_polling = flag(21)
    valid = flag(23)
    vmid = bits(27, 24)
    cache_policy = bits(29, 28)
    priv = flag(31)


class IndirectBuffer(Pm4):
    """Execute packets elsewhere, then go on here."""

    OPCODE: ClassVar[int | None] = Opcode.INDIRECT_BUFFER
    address = u64("virtual, a multiple of 4")
    control = word(IndirectControl)


class CopySource(IntEnum):
    REGISTER = 0
    MEMORY_OBSOLETE = 1
    L2 = 2
    PERFCOUNTERS = 4
    IMMEDIATE = 5
    GPU_CLOCK = 9
    SYSTEM_CLOCK = 10


class CopyTarget(IntEnum):
    REGISTER = 0
    L2 = 2
    PERFCOUNTERS = 4
    MEMORY_OBSOLETE = 5


class CopyControl(Word):
    src_sel = bits(3, 0, kind=CopySource)
    dst_sel = bits(11, 8, kind=CopyTarget)
    src_cache_policy = bits(14, 13)
    count_sel = flag(16, "64 bits instead of 32")
    wr_confirm = flag(20)
    dst_cache_policy = bits(26, 25)
    pq_exe_status = flag(29)


class CopyData(Pm4):
    """Copy 32 or 64 bits between memory, registers and clocks."""

    OPCODE: ClassVar[int | None] = Opcode.COPY_DATA
    control = word(CopyControl)
    source = u64()
    target = u64()


class Event(IntEnum):
    CS_PARTIAL_FLUSH = 0x07
    CACHE_FLUSH_AND_INV_TS = 0x14


class EventIndex(IntEnum):
    OTHER = 0
    PARTIAL_FLUSH = 4
    END_OF_PIPE = 5


class EventControl(Word):
    event_type = bits(5, 0, kind=Event)
    event_index = bits(11, 8, kind=EventIndex)


class EventWrite(Pm4):
    """CS_PARTIAL_FLUSH: wait until every dispatch so far has ended."""

    OPCODE: ClassVar[int | None] = Opcode.EVENT_WRITE
    event = word(EventControl)


class ReleaseControl(Word):
    """The event, and what becomes of the caches before it is told."""

    event_type = bits(5, 0, kind=Event)
    event_index = bits(11, 8, kind=EventIndex)
    glm_wb = flag(12)
    glm_inv = flag(13)
    glv_inv = flag(14)
    gl1_inv = flag(15)
    gl2_us = flag(16)
    gl2_range = bits(18, 17)
    gl2_discard = flag(19)
    gl2_inv = flag(20)
    gl2_wb = flag(21)
    seq = bits(23, 22)
    cache_policy = bits(26, 25, "3: bypass")
    execute = flag(28)


class ReleaseTarget(IntEnum):
    MEMORY = 0
    L2 = 1


class ReleaseInterrupt(IntEnum):
    NONE = 0
    AFTER_CONFIRM = 2
    NONE_AFTER_CONFIRM = 3


class ReleaseDatum(IntEnum):
    DISCARD = 0
    LOW_32 = 1
    VALUE_64 = 2
    GPU_CLOCK = 3


class ReleaseDestination(Word):
    dst_sel = bits(17, 16, kind=ReleaseTarget)
    int_sel = bits(26, 24, kind=ReleaseInterrupt)
    data_sel = bits(31, 29, kind=ReleaseDatum)


class ReleaseMem(Pm4):
    """After all work so far: write caches back, then write a value or a timestamp."""

    OPCODE: ClassVar[int | None] = Opcode.RELEASE_MEM
    control = word(ReleaseControl)
    destination = word(ReleaseDestination)
    address = u64()
    value = u64()
    interrupt_context = u32()


class CacheControl(Word):
    """GCR_CNTL. GLI instructions, GLK scalars, GLV vector L0, GL1, GL2, GLM metadata."""

    gli_inv = bits(1, 0, "1: all")
    gl1_range = bits(3, 2)
    glm_wb = flag(4)
    glm_inv = flag(5)
    glk_wb = flag(6)
    glk_inv = flag(7)
    glv_inv = flag(8)
    gl1_inv = flag(9)
    gl2_us = flag(10)
    gl2_range = bits(12, 11)
    gl2_discard = flag(13)
    gl2_inv = flag(14)
    gl2_wb = flag(15)
    seq = bits(17, 16)
    range_is_pa = flag(18)


class AcquireMem(Pm4):
    """Forget what caches hold, so that what follows reads memory afresh."""

    OPCODE: ClassVar[int | None] = Opcode.ACQUIRE_MEM
    coherence = u32("0 on these chips")
    size_low = u32("in 256 bytes; all ones for everything")
    size_high = u32()
    base_low = u32("address >> 8")
    base_high = u32()
    interval = u32()
    caches = word(CacheControl)


class SetShReg(Pm4):
    """Registers of the shader window from `register` on; values follow as `rest`."""

    OPCODE: ClassVar[int | None] = Opcode.SET_SH_REG
    register = u32("less SH_WINDOW")


class SetUconfigReg(Pm4):
    """Registers of the user configuration window; values follow as `rest`."""

    OPCODE: ClassVar[int | None] = Opcode.SET_UCONFIG_REG
    register = u32("less UCONFIG_WINDOW")


ALL_CACHES = CacheControl(
    gli_inv=1, glm_wb=True, glm_inv=True, glk_wb=True, glk_inv=True, glv_inv=True, gl1_inv=True,
    gl2_inv=True, gl2_wb=True,
)  # fmt: skip
"""What an acquire after foreign writes (host, SDMA) invalidates, new code included."""
SHADER_CACHES = ALL_CACHES.replace(gli_inv=0, gl2_inv=False, gl2_wb=False)
"""Between dispatches of one queue: the L2 is one for all of them."""
RELEASE_ALL = ReleaseControl(
    event_type=Event.CACHE_FLUSH_AND_INV_TS, event_index=EventIndex.END_OF_PIPE,
    glm_wb=True, glm_inv=True, glv_inv=True, gl1_inv=True, gl2_inv=True, gl2_wb=True, seq=1,
)  # fmt: skip
"""Everything written reaches memory before the value is."""
PARTIAL_FLUSH = EventControl(event_type=Event.CS_PARTIAL_FLUSH, event_index=4)
