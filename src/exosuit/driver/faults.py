"""Faults in words that a person can use: where an address lies among the buffers of a card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from exosuit.units import human_bytes


class Named(NamedTuple):
    """A buffer: what it is called and where it lies."""

    name: str
    address: int
    size: int


def nearest(address: int, buffers: Sequence[Named]) -> str:
    """`64 bytes past the end of kv.layer3`."""
    if not buffers:
        return "no buffer is allocated"

    def distance(buffer: Named) -> int:
        if address < buffer.address:
            return buffer.address - address
        return max(address - (buffer.address + buffer.size), 0)

    closest = min(buffers, key=distance)
    offset = address - closest.address
    if offset < 0:
        return f"{human_bytes(-offset)} before {closest.name}"
    if offset < closest.size:
        return f"{human_bytes(offset)} into {closest.name}, whose pages do not allow it"
    if offset == closest.size:  # reports hold pages, so it may be anywhere in that one
        return f"right past the end of {closest.name}"
    return f"{human_bytes(offset - closest.size)} past the end of {closest.name}"
