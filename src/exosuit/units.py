"""Sizes, times and address kinds: the numbers that must never be mixed up."""

from __future__ import annotations

from typing import NewType

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

VramAddress = NewType("VramAddress", int)
"""Offset into a card's memory, as its memory controller counts."""
GpuAddress = NewType("GpuAddress", int)
"""Virtual address, as the card's programs see it."""
BusAddress = NewType("BusAddress", int)
"""Address that the card emits on PCIe to reach host memory."""
HostAddress = NewType("HostAddress", int)
"""Virtual address in this process."""


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def human_bytes(size: float) -> str:
    """`1536` as `1.5 KiB`: binary units, three significant digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 100 else f"{size:.3g} {unit}"


def human_seconds(seconds: float) -> str:
    """`0.0021` as `2.1 ms`, `75` as `1 min 15 s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{int(seconds // 60)} min {round(seconds % 60)} s"
