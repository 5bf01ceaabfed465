"""Methods of the compute classes, from GA100 to GB20x: those that a driver of compute needs.

A grid is launched by writing its QMD to memory and its address to SEND_PCAS_A; the PCAS2 method
then says what to do with it. Addresses of scratch and windows are written upper half first.

Sources: NVIDIA/open-gpu-doc `classes/compute/clc6c0.h`, `clc7c0.h`, `clc9c0.h`, `clcbc0.h`,
`clcdc0.h`, `clcec0.h`, which agree on all of these.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Word, at, bits, flag
from exosuit.silicon.nvidia.push import SetObject

QMD_SHIFT = 8
"""SEND_PCAS_A takes the address of a QMD >> 8."""
LOCAL_WINDOW = 0x7293_0000_0000
SHARED_WINDOW = 0x7294_0000_0000
"""Where generic addresses mean local and shared memory; nothing may be mapped there. A driver may
choose: multiples of 4 GiB, as Hopper wants, and where no allocator here comes."""
WINDOW_BYTES = 16 << 20


class PcasAction(IntEnum):
    """Of SEND_SIGNALING_PCAS2_B."""

    NOP = 0
    INVALIDATE = 1
    SCHEDULE = 2
    INVALIDATE_COPY_SCHEDULE = 3
    INCREMENT_PUT = 6
    DECREMENT_DEPENDENCE = 7
    PREFETCH = 8
    PREFETCH_SCHEDULE = 9
    INVALIDATE_PREFETCH_COPY_SCHEDULE = 10


class Pcas2(Word):
    pcas_action = bits(3, 0, kind=PcasAction)


class SendPcas(Word):
    qmd_address_shifted8 = bits(31, 0)


class InvalidateShaderCaches(Word):
    instruction = flag(0)
    locks = flag(1)
    flush_data = flag(2)
    data = flag(4)
    constant = flag(12)


class InvalidateShaderCachesNoWfi(Word):
    """The same without waiting: what runs keeps what it has read."""

    instruction = flag(0)
    global_data = flag(4)
    constant = flag(12)


class WindowUpper(Word):
    base_address_upper = bits(16, 0)


class LocalUpper(Word):
    address_upper = bits(24, 0, "17 bits before Hopper")


class InlineQmdUpper(Word):
    qmd_address_shifted8_upper = bits(8, 0)
    inline_size = flag(30, "384 bytes, from Hopper on")


class NonThrottledA(Word):
    size_upper = bits(7, 0, "bytes of scratch of one TPC, upper part")


class NonThrottledC(Word):
    max_sm_count = bits(8, 0)


ALL_SMS = 0xFF
"""`max_sm_count`: what works on every chip that was tried."""


class DmaCompletion(IntEnum):
    FLUSH_DISABLE = 0
    FLUSH_ONLY = 1
    RELEASE_SEMAPHORE = 2


class InlineLaunch(Word):
    """LAUNCH_DMA: begins an upload of the data that follows."""

    dst_memory_layout = flag(0, "pitch")
    reduction_enable = flag(1)
    completion_type = bits(5, 4, kind=DmaCompletion)
    sysmembar_disable = flag(6)
    interrupt_type = bits(9, 8)
    semaphore_struct_size = flag(12, "one word")


class Compute(Block):
    SIZE = 0x4000
    SET_OBJECT = at(0x0000, SetObject)
    WAIT_FOR_IDLE = at(0x0110, Word)
    PM_TRIGGER = at(0x0140, Word)
    LINE_LENGTH_IN = at(0x0180, Word)
    LINE_COUNT = at(0x0184, Word)
    OFFSET_OUT_UPPER = at(0x0188, Word)
    OFFSET_OUT = at(0x018C, Word)
    LAUNCH_DMA = at(0x01B0, InlineLaunch)
    LOAD_INLINE_DATA = at(0x01B4, Word)
    INVALIDATE_SHADER_CACHES = at(0x021C, InvalidateShaderCaches)
    INVALIDATE_SKED_CACHES = at(0x0298, Word)
    SET_SHADER_SHARED_MEMORY_WINDOW_A = at(0x02A0, WindowUpper)
    SET_SHADER_SHARED_MEMORY_WINDOW_B = at(0x02A4, Word)
    SEND_PCAS_A = at(0x02B4, SendPcas)
    SEND_PCAS_B = at(0x02B8, Word)
    SEND_SIGNALING_PCAS_B = at(0x02BC, Word)
    SEND_SIGNALING_PCAS2_B = at(0x02C0, Pcas2)
    SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_A = at(0x02E4, NonThrottledA)
    SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_B = at(0x02E8, Word)
    SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_C = at(0x02EC, NonThrottledC)
    SET_INLINE_QMD_ADDRESS_A = at(0x0318, InlineQmdUpper)
    SET_INLINE_QMD_ADDRESS_B = at(0x031C, Word)
    LOAD_INLINE_QMD_DATA = at(0x0320, Word, count=96, stride=4)
    SET_SHADER_LOCAL_MEMORY_A = at(0x0790, LocalUpper)
    SET_SHADER_LOCAL_MEMORY_B = at(0x0794, Word)
    SET_SHADER_LOCAL_MEMORY_WINDOW_A = at(0x07B0, WindowUpper)
    SET_SHADER_LOCAL_MEMORY_WINDOW_B = at(0x07B4, Word)
    SET_SHADER_EXCEPTIONS = at(0x1528, Word)
    INVALIDATE_SHADER_CACHES_NO_WFI = at(0x1698, InvalidateShaderCachesNoWfi)
    PIPE_NOP = at(0x1A2C, Word)
    SET_REPORT_SEMAPHORE_A = at(0x1B00, Word)
    SET_REPORT_SEMAPHORE_B = at(0x1B04, Word)
    SET_REPORT_SEMAPHORE_C = at(0x1B08, Word)
    SET_REPORT_SEMAPHORE_D = at(0x1B0C, Word)
