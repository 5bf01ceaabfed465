"""Methods of the DMA copy classes, from GA100 to GB20x: lines of bytes, and a constant for fills.

LAUNCH_DMA acts on what the others have said. Of a copy in pitch layout without `multi_line` only
LINE_LENGTH_IN counts, in bytes, or in elements where components are remapped.

Sources: NVIDIA/open-gpu-doc `classes/dma-copy/clc6b5.h`, `clc7b5.h`, `clc8b5.h`, `clc9b5.h`,
`clcab5.h`, which agree on all of these.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Word, at, bits, flag
from exosuit.silicon.nvidia.push import SetObject

MOST_BYTES = 1 << 31
"""Of one launch; the length has 32 bits, and drivers stay below the last."""


class Transfer(IntEnum):
    NONE = 0
    PIPELINED = 1
    NON_PIPELINED = 2


class Semaphore(IntEnum):
    NONE = 0
    RELEASE_ONE_WORD_SEMAPHORE = 1
    RELEASE_FOUR_WORD_SEMAPHORE = 2
    RELEASE_CONDITIONAL_INTR_SEMAPHORE = 3


class PhysicalTarget(IntEnum):
    LOCAL_FB = 0
    COHERENT_SYSMEM = 1
    NONCOHERENT_SYSMEM = 2
    PEERMEM = 3


class PhysMode(Word):
    target = bits(1, 0, kind=PhysicalTarget)


class LaunchDma(Word):
    data_transfer_type = bits(1, 0, kind=Transfer)
    flush_enable = flag(2, "what was written is visible before the semaphore is")
    semaphore_type = bits(4, 3, kind=Semaphore)
    interrupt_type = bits(6, 5)
    src_memory_layout = flag(7, "pitch")
    dst_memory_layout = flag(8, "pitch")
    multi_line_enable = flag(9)
    remap_enable = flag(10)
    src_type = flag(12, "physical")
    dst_type = flag(13, "physical")
    semaphore_reduction = bits(17, 14)
    semaphore_reduction_sign = flag(18)
    semaphore_reduction_enable = flag(19)
    flush_type = flag(25, "GL: not as far as host memory")
    disable_plc = flag(26)
    semaphore_payload_size = flag(27, "two words")


class RemapSource(IntEnum):
    SRC_X = 0
    SRC_Y = 1
    SRC_Z = 2
    SRC_W = 3
    CONST_A = 4
    CONST_B = 5
    NO_WRITE = 6


class RemapComponents(Word):
    """Of which components an element is made; sizes and counts minus one."""

    dst_x = bits(2, 0, kind=RemapSource)
    dst_y = bits(6, 4, kind=RemapSource)
    dst_z = bits(10, 8, kind=RemapSource)
    dst_w = bits(14, 12, kind=RemapSource)
    component_size = bits(17, 16, "in bytes, minus one")
    num_src_components = bits(21, 20)
    num_dst_components = bits(25, 24)


class Upper(Word):
    upper = bits(24, 0, "of an address; 17 bits before Hopper")


class Copy(Block):
    SIZE = 0x2000
    SET_OBJECT = at(0x0000, SetObject)
    NOP = at(0x0100, Word)
    SET_SEMAPHORE_A = at(0x0240, Upper)
    SET_SEMAPHORE_B = at(0x0244, Word)
    SET_SEMAPHORE_PAYLOAD = at(0x0248, Word)
    SET_SEMAPHORE_PAYLOAD_UPPER = at(0x024C, Word)
    SET_SRC_PHYS_MODE = at(0x0260, PhysMode)
    SET_DST_PHYS_MODE = at(0x0264, PhysMode)
    LAUNCH_DMA = at(0x0300, LaunchDma)
    OFFSET_IN_UPPER = at(0x0400, Upper)
    OFFSET_IN_LOWER = at(0x0404, Word)
    OFFSET_OUT_UPPER = at(0x0408, Upper)
    OFFSET_OUT_LOWER = at(0x040C, Word)
    PITCH_IN = at(0x0410, Word)
    PITCH_OUT = at(0x0414, Word)
    LINE_LENGTH_IN = at(0x0418, Word)
    LINE_COUNT = at(0x041C, Word)
    SET_REMAP_CONST_A = at(0x0700, Word)
    SET_REMAP_CONST_B = at(0x0704, Word)
    SET_REMAP_COMPONENTS = at(0x0708, RemapComponents)
