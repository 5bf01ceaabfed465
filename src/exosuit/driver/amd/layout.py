"""Where the driver's own objects lie in local memory: at the same offsets in every run.

A card that was left running still uses them, so a later process that attaches to it must find them
where the first one put them. Whoever changes this page changes `LAYOUT` too. Everything here lies
in the first part of local memory, which a window of 256 MiB shows.
"""

from __future__ import annotations

from exosuit.datasheet import Word, bits
from exosuit.units import GiB, KiB, MiB

LAYOUT = 1
"""Version of this page."""

ROOT_TABLE = 0
SCRATCH_PAGE = 0x1000
"""Where accesses go that no aperture covers."""
DUMMY_PAGE = 0x2000
"""Where accesses go that fault."""
MQD = 0x3000
SMU_TABLE = 0x4000
SMU_TABLE_BYTES = 16 * KiB
PSP_COMMAND = 0x8000
PSP_FENCE = 0x9000
PSP_RING = 0x10000
PSP_RING_BYTES = 0x1000
PSP_STAGING = 1 * MiB
PSP_STAGING_BYTES = 1 * MiB
TMR = 2 * MiB
"""Up to the end of the boot objects; how many MiB it takes is the PSP's to say."""
TABLES_BYTES = 16 * MiB
"""Page tables, after the boot objects."""
LEAST_BOOT_BYTES = 32 * MiB
ADDRESSES = 1024 * GiB
"""Virtual addresses that are given out."""
TOP_RESERVED = 64 * MiB
"""The end of local memory, where the card's own firmware keeps the discovery table and more."""


class Running(Word):
    """SCRATCH_REG7: that this driver has booted the card, and how it laid things out."""

    boot_mib = bits(11, 0, "size of the boot objects in MiB")
    layout = bits(15, 12)
    magic = bits(31, 16)


MAGIC = 0xE505
"""In `Running.magic`. No other driver's: a card with another number is in an unknown state."""


def running(boot_bytes: int) -> Running:
    return Running(magic=MAGIC, layout=LAYOUT, boot_mib=boot_bytes // MiB)
