"""What stops a channel: errors of warps, and the kinds of errors that a kernel log calls Xid.

Sources: Linux `nouveau/nvkm/engine/gr/gf100.c` (warp errors, the low 16 bits of a warp's error
status); the catalogue of Xid errors in NVIDIA's documentation, `nverror.h` of
NVIDIA/open-gpu-kernel-modules.
"""

from __future__ import annotations

from enum import IntEnum


class WarpError(IntEnum):
    """Low half of HWW_WARP_ESR."""

    NONE = 0x00
    STACK_ERROR = 0x01
    MISALIGNED_PC = 0x05
    ILLEGAL_INSTRUCTION = 0x09
    ILLEGAL_INSTRUCTION_PARAMETER = 0x0B
    INVALID_CONSTANT_ADDRESS = 0x0C
    OUT_OF_RANGE_REGISTER = 0x0D
    OUT_OF_RANGE_ADDRESS = 0x0E
    MISALIGNED_ADDRESS = 0x0F
    INVALID_ADDRESS_SPACE = 0x10
    DIVERGENT = 0x14


class Xid(IntEnum):
    """ROBUST_CHANNEL_*: what a channel's end is called."""

    GRAPHICS_EXCEPTION = 13
    MMU_FAULT = 31
    PUSHBUFFER = 32
    RESET_CHANNEL_VERIFICATION = 43
    PREEMPTIVE_REMOVAL = 45
    CLASS_ERROR = 69
    GPU_HAS_FALLEN_OFF_THE_BUS = 79
    GSP_RPC_TIMEOUT = 119
    GSP_ERROR = 120
