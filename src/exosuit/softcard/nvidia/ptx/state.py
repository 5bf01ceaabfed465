"""The memory of a warp: fixed fields, then what its program keeps between blocks.

Offsets in bytes. A lane vector is 32 values of one width; a predicate is one bit per lane in 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exosuit.units import round_up

WARP = 32

RUNNING = 0  # u32, lanes that run the current block
ALIVE = 4  # u32, lanes that have not returned
PARAMETERS = 8  # address of the argument block
SHARED = 16  # address of the group's shared memory
SHARED_BYTES = 24  # u64
WINDOWS = 32  # address of (start, bytes, host) triples of u64, in order of their starts
WINDOW_COUNT = 40  # u64
GROUP = 48  # u32 x, y, z
WARP_NUMBER = 60  # u32
GROUPS = 64  # u32 x, y, z
LANES = 76  # u32 x, y, z of a group
BUDGET = 88  # i64, blocks that may still be run
FAULT = 96  # u64, a `Fault`, 0 if there is none
FAULT_ADDRESS = 104  # u64
FAULT_LINE = 112  # u32
LINE = 116  # u32, of the memory access that is under way
LOCAL = 120  # address of the warp's local memory
SPECIAL = 128  # lane vectors of u32: tid.x, tid.y, tid.z
DONE = 512  # u64, instructions times lanes
LOCAL_BYTES = 520  # u64
MOVED = 528  # u64, bytes of global memory that lanes asked for
PENDING = 536  # bitmap of blocks, then a u32 mask for each, then the registers

FAULTS = ("", "memory", "alignment", "shared memory", "diverged", "instruction", "hang")
"""Kinds of `PtxFault` by number."""
MEMORY, ALIGNMENT, SHARED_MEMORY, DIVERGED, INSTRUCTION, HANG = range(1, len(FAULTS))

BARRIER, ENDED, FAULTED = range(3)
"""Why a warp stops; with a barrier the block to go on with is in the low half."""


@dataclass(frozen=True)
class Layout:
    """Where one program keeps what.

    words      u64 words of the bitmap of pending blocks
    pending    offset of the masks of pending blocks
    registers  offset by name of the registers that outlive a block
    local      bytes of local memory of one lane
    """

    words: int
    pending: int
    registers: dict[str, int]
    local: int
    size: int

    @staticmethod
    def of(blocks: int, registers: dict[str, int], local: int) -> Layout:
        """For so many blocks, and registers with their widths in bits."""
        words = -(-blocks // 64)
        pending = PENDING + 8 * words
        place = round_up(pending + 4 * blocks, 128)
        places: dict[str, int] = {}
        for name, bits in sorted(registers.items(), key=lambda item: -item[1]):
            places[name] = place
            place += 4 if bits == 1 else WARP * bits // 8
        return Layout(words, pending, places, local, round_up(place, 128))


def special(x: int, y: int, z: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint32]]:
    """For every warp of a group of x * y * z lanes its tid.x, tid.y and tid.z: [warps, 3, 32]."""
    warps = -(-x * y * z // WARP)
    flat = np.arange(warps * WARP, dtype=np.uint32).reshape(warps, WARP)
    return np.stack([flat % x, flat // x % y, flat // (x * y)], axis=1)
