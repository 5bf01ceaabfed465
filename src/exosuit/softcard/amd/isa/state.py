"""What one wave is made of, as bytes: what translated code, its routines and the groups share.

Scalar registers come first, by their operand codes; vector registers last, one after the other,
32 lanes of four bytes each. Between them lie the wave's own facts.
"""

from __future__ import annotations

from exosuit.silicon.amd.isa.operands import EXEC, M0, NULL, VCC

SCALAR_COUNT = 128
VECTOR_COUNT = 256
VECTOR_BYTES = 128

SCC = 512  # i32, 0 or 1
FAULT_ADDRESS = 516  # i32, bytes from the entry, of an instruction that could not be obeyed
INSTRUCTIONS = 520  # i64, instructions times active lanes, so far
MEMORY_BYTES = 528  # i64, moved by active lanes so far
PAUSE_AT = 536  # i64, the wave steps aside when INSTRUCTIONS is past it
ROUTINES = 544  # pointer to the table of routines
TLB_ENTRIES = 552  # pointer
TLB_BASE = 560  # i64, a GPU virtual address
TLB_PAGES = 568  # i64
TLB_MISS = 576  # pointer to i64 miss(i64 address, i32 access)
LOCAL = 584  # pointer to the workgroup's local memory
LOCAL_BYTES = 592  # i64
SCRATCH = 600  # i64, GPU virtual address of this wave's scratch
ENTRY = 608  # i64, GPU virtual address of the program
ADDRESSES = 768  # 32 times i64: the lanes' addresses of a memory instruction
BUFFER = 1024  # 1 KiB for what a routine needs in memory
VECTORS = 2048
STATE_BYTES = VECTORS + VECTOR_COUNT * VECTOR_BYTES


def scalar_offset(code: int) -> int:
    """Where the scalar register with this operand code lies."""
    return 4 * code


def vector_offset(number: int) -> int:
    return VECTORS + VECTOR_BYTES * (number % VECTOR_COUNT)


__all__ = [
    "ADDRESSES", "BUFFER", "ENTRY", "EXEC", "FAULT_ADDRESS", "INSTRUCTIONS", "LOCAL",
    "LOCAL_BYTES", "M0", "MEMORY_BYTES", "NULL", "PAUSE_AT", "ROUTINES", "SCALAR_COUNT", "SCC",
    "SCRATCH", "STATE_BYTES", "TLB_BASE", "TLB_ENTRIES", "TLB_MISS", "TLB_PAGES", "VCC",
    "VECTORS", "VECTOR_BYTES", "VECTOR_COUNT", "scalar_offset", "vector_offset",
]  # fmt: skip
