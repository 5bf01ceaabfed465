"""A grid: what one launch is, whatever layout of a QMD says it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

RELEASES = 2
"""Semaphores of a grid. There is room for a third; nobody needs it."""


class StructureSize(IntEnum):
    """What a release writes."""

    FOUR_WORDS = 0
    ONE_WORD = 1
    TWO_WORDS = 2


@dataclass(frozen=True)
class Bank:
    """A constant bank: `size` bytes at `address`."""

    address: int
    size: int
    invalidate: bool = False


@dataclass(frozen=True)
class Release:
    """A semaphore that is written when the grid has ended and its writes are visible."""

    address: int
    payload: int
    size: StructureSize = StructureSize.ONE_WORD
    is_wide: bool = False


@dataclass(frozen=True)
class Grid:
    """What one launch is.

    program            address of the first instruction, a multiple of 16
    code_bytes         of the program, to be prefetched as far as that goes
    groups, lanes      in x, y, z
    registers          of a lane
    barriers           of a group
    shared_bytes       of a group, a multiple of 128, with what the system takes
    shared_configs     the SM's division: least, wanted and most, in KiB
    local_bytes        scratch of a lane at the upper end of its window, a multiple of 16
    sass_version       0x86 for sm_86
    banks              constant banks by number
    releases           semaphores, at most RELEASES
    dependent          address of the QMD to schedule when this one has ended
    virtual_resources  from Blackwell on, as the cubin says
    """

    program: int
    code_bytes: int
    groups: tuple[int, int, int]
    lanes: tuple[int, int, int]
    registers: int
    barriers: int
    shared_bytes: int
    shared_configs: tuple[int, int, int]
    local_bytes: int
    sass_version: int
    banks: dict[int, Bank]
    releases: tuple[Release, ...] = ()
    dependent: int | None = None
    virtual_resources: int = 0
