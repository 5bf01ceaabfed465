"""What lies where in the card's memory: what firmware takes at the top, what the host takes below.

From the top down: the display's workspace, FRTS, the boot loader, GSP-RM's image and its heap (all
of that is WPR2, which nobody but firmware can touch), and a heap that is not protected. Before
Hopper the host chooses the places; later the firmware does, and the host only keeps away from where
it will put things. At the bottom lies what the host itself writes: page tables, rings, contexts.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp_tu102.c` (kgspCalculateFbLayout_TU102),
`kernel_gsp_gh100.c`; sizes of tinygrad's proven boot, see `silicon.nvidia.chips`.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.errors import BootFailed
from exosuit.silicon.nvidia.chips import Chip, Start
from exosuit.silicon.nvidia.gsp import WPR_MAGIC, WPR_REVISION, WprMeta
from exosuit.silicon.nvidia.vbios import FRTS_BYTES
from exosuit.units import GiB, KiB, MiB, human_bytes, round_up

FIRST_TABLE = 1 * MiB
"""The root lies here: at 0 it might be taken for none."""
TABLES_BYTES = 32 * MiB
"""Page tables end here. They lie at the bottom of the card's memory, which the window shows."""
WINDOW_BYTES = 16 * MiB
"""Rings, USERD and what else the host writes by itself, after the tables."""
HOST_WRITTEN = TABLES_BYTES + WINDOW_BYTES

RESERVED_VA = 64 * GiB
RESERVED_VA_BYTES = 512 * MiB
"""Addresses that are the firmware's, in every address space that it knows."""
WINDOW_VA = RESERVED_VA + RESERVED_VA_BYTES
"""Where the host-written part after the tables is mapped."""
FIRST_VA = WINDOW_VA + WINDOW_BYTES
END_VA = 1 << 40
"""Everything gets an address below this, as GPFIFO entries, QMDs and semaphores want it."""

LEAST_VRAM_BYTES = 512 * MiB
_VGA_BYTES = 1 * MiB
_FSP_VGA_BYTES = 128 * KiB
_SLACK = 32 * MiB
"""Between what firmware is reckoned to take and what buffers get, where firmware chooses."""


@dataclass(frozen=True)
class Layout:
    """Offsets in VRAM; those of firmware are 0 where it chooses them itself.

    free_end  buffers end here
    """

    vram_bytes: int
    frts: int
    boot_binary: int
    image: int
    heap: int
    heap_bytes: int
    wpr_start: int
    wpr_end: int
    non_wpr_heap: int
    free_end: int


def plan(chip: Chip, vram_bytes: int, image_bytes: int, bootloader_bytes: int) -> Layout:
    """Where firmware's parts go on a card with so much memory. Raises BootFailed for too little."""
    heap_bytes = chip.heap_bytes(vram_bytes)
    if vram_bytes < LEAST_VRAM_BYTES:
        raise BootFailed(
            f"the card has {human_bytes(vram_bytes)} of memory, too little to be booted",
            cause=f"its firmware takes about {human_bytes(heap_bytes + image_bytes)} of it",
            next="use another card, or --device cpu",
            vram_bytes=vram_bytes,
        )
    if chip.start is Start.FSP:
        taken = (
            chip.frts_from_end + FRTS_BYTES + round_up(bootloader_bytes, 4 * KiB)
            + round_up(image_bytes, 64 * KiB) + heap_bytes + chip.non_wpr_bytes
            + chip.pmu_bytes
        )  # fmt: skip
        free_end = (vram_bytes - taken - _SLACK) // (2 * MiB) * (2 * MiB)
        return Layout(vram_bytes, 0, 0, 0, 0, heap_bytes, 0, 0, 0, free_end)
    wpr_end = vram_bytes - _VGA_BYTES
    frts = wpr_end - FRTS_BYTES
    boot_binary = (frts - bootloader_bytes) & -4 * KiB
    image = (boot_binary - image_bytes) & -64 * KiB
    heap = (image - heap_bytes) & -1 * MiB
    wpr_start = (heap - WprMeta.SIZE) & -1 * MiB
    non_wpr_heap = wpr_start - chip.non_wpr_bytes
    return Layout(
        vram_bytes, frts, boot_binary, image, heap, image - heap & -1 * MiB, wpr_start, wpr_end,
        non_wpr_heap, non_wpr_heap // (2 * MiB) * (2 * MiB),
    )  # fmt: skip


def wpr_meta(chip: Chip, layout: Layout) -> WprMeta:
    """The WPR meta with all places in VRAM; those in host memory are still to be filled in."""
    meta = WprMeta.make(magic=WPR_MAGIC, revision=WPR_REVISION)
    if chip.start is Start.FSP:
        meta.assign(
            non_wpr_heap_size=chip.non_wpr_bytes,
            heap_size=layout.heap_bytes,
            frts_size=FRTS_BYTES,
            vga_workspace_size=_FSP_VGA_BYTES,
            pmu_reserved_size=chip.pmu_bytes,
        )
        return meta
    meta.assign(
        reserved_start=layout.non_wpr_heap,
        non_wpr_heap_offset=layout.non_wpr_heap,
        non_wpr_heap_size=chip.non_wpr_bytes,
        wpr_start=layout.wpr_start,
        heap_offset=layout.heap,
        heap_size=layout.heap_bytes,
        image_offset=layout.image,
        boot_binary_offset=layout.boot_binary,
        frts_offset=layout.frts,
        frts_size=FRTS_BYTES,
        wpr_end=layout.wpr_end,
        fb_size=layout.vram_bytes,
        vga_workspace_offset=layout.wpr_end,
        vga_workspace_size=_VGA_BYTES,
    )
    return meta
