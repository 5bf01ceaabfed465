"""What signed boot code does with the WPR meta: check it, bring the GSP's image in, mark it.

On Ampere and Ada the booter on SEC2 does it, on Blackwell the FMC. Nobody checks signatures here;
what is checked is what such code must rely on: magic numbers, that everything it is pointed to is
there, and before Blackwell that the regions follow each other below the end of local memory.
"""

from __future__ import annotations

from exosuit.silicon.nvidia.gsp import (
    PAGE,
    RADIX_ENTRIES,
    WPR_MAGIC,
    WPR_REVISION,
    WPR_VERIFIED,
    WprMeta,
)
from exosuit.softcard.host import HostFault
from exosuit.softcard.nvidia.bus import Bus
from exosuit.units import GiB, MiB


class Rejected(Exception):
    """The boot code will not go on."""


def read_meta(bus: Bus, address: int) -> WprMeta:
    """The meta at a bus address. Raises Rejected."""
    if address % PAGE:
        raise Rejected(f"WPR meta at {address:#x}, which is not aligned")
    try:
        meta = WprMeta(bytearray(bus.read(address, WprMeta.SIZE)))
    except HostFault as fault:
        raise Rejected(f"no WPR meta at {address:#x}") from fault
    if meta.magic != WPR_MAGIC or meta.revision != WPR_REVISION:
        raise Rejected(f"WPR meta with magic {meta.magic:#x}, revision {meta.revision}")
    return meta


def check_layout(meta: WprMeta, vram: int, frts: int) -> None:
    """Whether the regions lie as they must, FRTS where it was made. Raises Rejected."""
    if meta.fb_size != vram:
        raise Rejected(f"local memory of {meta.fb_size:#x} bytes, which has {vram:#x}")
    if meta.frts_offset != frts or meta.frts_size != MiB:
        raise Rejected(f"FRTS at {meta.frts_offset:#x}, which was made at {frts:#x}")
    ends = (
        ("the non-WPR heap", meta.non_wpr_heap_offset, meta.non_wpr_heap_size, MiB),
        ("the WPR region", meta.wpr_start, PAGE, MiB),
        ("the heap", meta.heap_offset, meta.heap_size, MiB),
        ("the image", meta.image_offset, meta.radix3_size, 0x1_0000),
        ("the boot binary", meta.boot_binary_offset, meta.bootloader_size, PAGE),
        ("FRTS", meta.frts_offset, meta.frts_size, 0x2_0000),
        ("the VGA workspace", meta.vga_workspace_offset, meta.vga_workspace_size, 0x2_0000),
    )
    below = meta.reserved_start
    for name, offset, size, alignment in ends:
        if offset % alignment or size == 0:
            raise Rejected(f"{name} of {size:#x} bytes at {offset:#x}")
        if offset < below:
            raise Rejected(f"{name} at {offset:#x}, inside what lies below it")
        below = offset + size
    if below > vram:
        raise Rejected("regions past the end of local memory")
    if meta.wpr_end < meta.frts_offset + meta.frts_size or meta.wpr_end > vram:
        raise Rejected(f"an end of WPR at {meta.wpr_end:#x}")


def load_image(bus: Bus, meta: WprMeta) -> bytes:
    """The GSP's image out of its pages. Raises Rejected."""
    size = meta.radix3_size
    if not 0 < size <= GiB:
        raise Rejected(f"an image of {size} bytes")
    try:
        for name, address, count in (
            ("boot loader", meta.bootloader_address, meta.bootloader_size),
            ("signature", meta.signature_address, meta.signature_size),
        ):
            if not 0 < count <= MiB or not any(bus.read(address, count)):
                raise Rejected(f"no {name} at {address:#x}, {count} bytes")
        pages = [meta.radix3_address]
        data = -(-size // PAGE)
        lists = -(-data // RADIX_ENTRIES)
        for wanted in (-(-lists // RADIX_ENTRIES), lists, data):
            found: list[int] = []
            for page in pages:
                found.extend(memoryview(bus.read(page, PAGE)).cast("Q"))
            pages = found[:wanted]
            if any(page % PAGE or not page for page in pages):
                raise Rejected("a list of the image's pages with a hole in it")
        return _gather(bus, pages)[:size]
    except HostFault as fault:
        raise Rejected(f"part of the firmware is not at {fault.address:#x}") from fault


def _gather(bus: Bus, pages: list[int]) -> bytes:
    """The bytes of pages, neighbours by one request."""
    made = bytearray()
    first = 0
    for index in range(1, len(pages) + 1):
        if index == len(pages) or pages[index] != pages[index - 1] + PAGE:
            made += bus.read(pages[first], (index - first) * PAGE)
            first = index
    return bytes(made)


def mark_verified(bus: Bus, address: int) -> None:
    """Say in the meta that it was taken."""
    bus.write(address + WprMeta.SLOTS["verified"].offset, WPR_VERIFIED.to_bytes(8, "little"))
