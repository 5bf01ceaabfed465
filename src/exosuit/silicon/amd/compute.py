"""COMPUTE_*: the registers that a dispatch runs with, set by SET_SH_REG.

They sit in the GC block's first segment, at the same places on every chip here. A packet names
them by their distance from its window; `sh_index` gives that from the chip's base.

Sources: Linux `asic_reg/gc/gc_11_0_0_*.h`, `gc_12_0_0_*.h`; values as in amdgpu's MQD setup.
"""

from __future__ import annotations

from typing import Any

from exosuit.datasheet import Block, Word, at, bits
from exosuit.datasheet.registers import Description
from exosuit.silicon.amd.code import Rsrc1, Rsrc1Gfx12, Rsrc2, Rsrc3, Rsrc3Gfx12
from exosuit.silicon.amd.pm4 import SH_WINDOW, DispatchInitiator

CODE_SHIFT = 8
"""Addresses of code and scratch are held >> 8."""
SCRATCH_GRANULE = 256
"""Unit of `TmpringSize.wavesize` in bytes."""
LARGEST_WAVE_LANES = 64
"""Scratch is reckoned for waves of 64 lanes, whatever the program's are."""
ALL_UNITS = 0xFFFF_FFFF


class Address256(Word):
    """A virtual address >> 8, in a pair of registers."""

    WIDTH = 64
    address = bits(39, 0)


class ThreadCount(Word):
    full = bits(15, 0, "work-items of a workgroup in this dimension")
    partial = bits(31, 16)


class TmpringSize(Word):
    """Scratch memory of all waves."""

    waves = bits(11, 0, "of one shader engine, at most")
    wavesize = bits(26, 12, "of one wave, in SCRATCH_GRANULE")


class TmpringSize12(TmpringSize):
    wavesize = bits(29, 12)


class Compute(Block):
    """gfx11."""

    UNIT = 4
    COMPUTE_DISPATCH_INITIATOR = at(0x1BA0, DispatchInitiator)
    COMPUTE_DIM_X = at(0x1BA1, Word)
    COMPUTE_DIM_Y = at(0x1BA2, Word)
    COMPUTE_DIM_Z = at(0x1BA3, Word)
    COMPUTE_START_X = at(0x1BA4, Word)
    COMPUTE_START_Y = at(0x1BA5, Word)
    COMPUTE_START_Z = at(0x1BA6, Word)
    COMPUTE_NUM_THREAD_X = at(0x1BA7, ThreadCount)
    COMPUTE_NUM_THREAD_Y = at(0x1BA8, ThreadCount)
    COMPUTE_NUM_THREAD_Z = at(0x1BA9, ThreadCount)
    COMPUTE_PIPELINESTAT_ENABLE = at(0x1BAA, Word)
    COMPUTE_PERFCOUNT_ENABLE = at(0x1BAB, Word)
    COMPUTE_PGM = at(0x1BAC, Address256, "LO, HI: where the code begins")
    COMPUTE_DISPATCH_PKT_ADDR = at(0x1BAE, Address256)
    COMPUTE_DISPATCH_SCRATCH_BASE = at(0x1BB0, Address256, "LO, HI")
    COMPUTE_PGM_RSRC1 = at(0x1BB2, Rsrc1)
    COMPUTE_PGM_RSRC2 = at(0x1BB3, Rsrc2)
    COMPUTE_VMID = at(0x1BB4, Word, "the queue's; not to be written")
    COMPUTE_RESOURCE_LIMITS = at(0x1BB5, Word)
    COMPUTE_STATIC_THREAD_MGMT_SE0 = at(0x1BB6, Word, "which compute units may work")
    COMPUTE_STATIC_THREAD_MGMT_SE1 = at(0x1BB7, Word)
    COMPUTE_TMPRING_SIZE = at(0x1BB8, TmpringSize)
    COMPUTE_STATIC_THREAD_MGMT_SE2 = at(0x1BB9, Word)
    COMPUTE_STATIC_THREAD_MGMT_SE3 = at(0x1BBA, Word)
    COMPUTE_RESTART_X = at(0x1BBB, Word)
    COMPUTE_RESTART_Y = at(0x1BBC, Word)
    COMPUTE_RESTART_Z = at(0x1BBD, Word)
    COMPUTE_PGM_RSRC3 = at(0x1BC8, Rsrc3)
    COMPUTE_STATIC_THREAD_MGMT_SE4 = at(0x1BCB, Word)
    COMPUTE_STATIC_THREAD_MGMT_SE5 = at(0x1BCC, Word)
    COMPUTE_STATIC_THREAD_MGMT_SE6 = at(0x1BCD, Word)
    COMPUTE_STATIC_THREAD_MGMT_SE7 = at(0x1BCE, Word)
    COMPUTE_USER_DATA = at(0x1BE0, Word, "the first scalar registers", count=16, stride=1)


class Compute12(Compute):
    """gfx12."""

    COMPUTE_PGM_RSRC1 = at(0x1BB2, Rsrc1Gfx12)
    COMPUTE_TMPRING_SIZE = at(0x1BB8, TmpringSize12)
    COMPUTE_PGM_RSRC3 = at(0x1BC8, Rsrc3Gfx12)


def sh_index(description: Description[Any], gc_base: int, index: int = 0) -> int:
    """How SET_SH_REG names a register.

    gc_base  of the GC block's first segment, in dwords
    """
    offset = description.offset + index * description.stride
    return gc_base + offset // Compute.UNIT - SH_WINDOW
