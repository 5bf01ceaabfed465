"""Constant bank 0: what a driver tells every launch, and behind it the kernel's arguments.

ptxas compiles `%ntid`, `%nctaid`, the stack and generic addresses to loads from fixed offsets of
this bank, which differ by generation; they were found by disassembling its output for each target.
Offsets in bytes. What is not described is zero.

Sources: disassembly of ptxas 13.0 output for sm_80 to sm_121 (a test does it again); tinygrad
`ops_nv.py` for the shared window and the stack's value, which it sets so on Ampere, Ada and
Blackwell. Hopper's shared window is assumed; its code reads a special register instead.
"""

from __future__ import annotations

from typing import ClassVar

from exosuit.datasheet import Struct, u32, u64

STACK_TOP = 0xFF_FDC0
"""Initial stack pointer: the end of the local window, less what the ABI keeps for itself."""
STACK_RESERVED = 0x240
"""What it keeps: to be added to a kernel's own stack."""


class Bank0(Struct):
    """What every generation has, at places of its own.

    ARGUMENTS  where the kernel's arguments begin
    """

    ARGUMENTS: ClassVar[int] = 0
    block_x = u32("lanes of a group")
    block_y = u32()
    block_z = u32()
    grid_x = u32("groups")
    grid_y = u32()
    grid_z = u32()
    shared_window = u64()
    local_window = u64()
    stack_pointer = u32()


class Bank0Ampere(Bank0):
    """sm_80 to sm_89."""

    SIZE: ClassVar[int] = 0x160
    ARGUMENTS = 0x160
    dynamic_shared_bytes = u32(at=0x2C)
    memory_descriptor = u64("of `desc[]` accesses; 0 works", at=0x118)


class Bank0Hopper(Bank0):
    """sm_90."""

    SIZE: ClassVar[int] = 0x210
    ARGUMENTS = 0x210
    dynamic_shared_bytes = u32(at=0x2C)
    memory_descriptor = u64(at=0x208)


class Bank0Blackwell(Bank0):
    """sm_100 to sm_121."""

    SIZE: ClassVar[int] = 0x380
    ARGUMENTS = 0x380
    shared_window = u64(at=0x2F0)
    local_window = u64(at=0x2F8)
    memory_descriptor = u64(at=0x358)
    block_x = u32(at=0x360)
    block_y = u32(at=0x364)
    block_z = u32(at=0x368)
    grid_x = u32(at=0x370)
    grid_y = u32(at=0x374)
    grid_z = u32(at=0x378)
    stack_pointer = u32(at=0x37C)


def bank0(sm: int) -> type[Bank0]:
    """The layout of an sm: 86 for sm_86."""
    if sm >= 100:
        return Bank0Blackwell
    return Bank0Hopper if sm >= 90 else Bank0Ampere
