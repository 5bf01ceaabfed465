"""What occurs in a QMD more than once: constant banks, and semaphores that are released.

Version 3 has all of one in one place; versions 4 and 5 keep the flags of all of them together.
Sources: as `qmd`.
"""

from __future__ import annotations

from exosuit.datasheet import Word, bits, flag
from exosuit.silicon.nvidia.grid import StructureSize


class Bank3(Word):
    """CONSTANT_BUFFER_*(i) of version 3, but for the valid bit."""

    WIDTH = 64
    addr = bits(48, 0)
    prefetch_post = flag(49)
    invalidate = flag(50)
    size_shifted4 = bits(63, 51)


class Bank4(Word):
    """CONSTANT_BUFFER_*(i) of versions 4 and 5, but for the flags."""

    WIDTH = 64
    addr_shifted6 = bits(50, 0)
    size_shifted4 = bits(63, 51)


class BankFlags4(Word):
    WIDTH = 4
    valid = flag(0)
    prefetch = bits(2, 1)
    invalidate = flag(3)


class Release3(Word):
    """RELEASE0_*, RELEASE1_* of version 3."""

    WIDTH = 128
    address = bits(39, 0)
    membar_type = flag(51, "FE_SYSMEMBAR")
    reduction_op = bits(54, 52)
    enable = flag(55)
    reduction_format = bits(57, 56)
    reduction_enable = flag(58)
    non_blocking_intr_type = bits(60, 59)
    payload64b = flag(61)
    structure_size = bits(63, 62, kind=StructureSize)
    payload = bits(127, 64)


class Release4(Word):
    """RELEASE_SEMAPHORE0_* of versions 4 and 5."""

    WIDTH = 128
    addr = bits(56, 0)
    payload = bits(127, 64)


class ReleaseFlags4(Word):
    """RELEASE_*(i) of versions 4 and 5."""

    WIDTH = 16
    enable = flag(0)
    structure_size = bits(2, 1, kind=StructureSize)
    membar_type = flag(3, "FE_SYSMEMBAR")
    reduction_enable = flag(4)
    reduction_op = bits(7, 5)
    reduction_format = bits(9, 8)
    trap_type = bits(11, 10)
    payload64b = flag(12)
