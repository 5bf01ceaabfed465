"""The fake's memory: each allocation by itself, at addresses that are never used twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exosuit.softcard.nvidia.ptx.grid import Window
from exosuit.units import round_up

BASE, GAP = 0x7000_0000_0000, 2 << 20
POISON = 0xA5
"""Fresh memory holds this, as real memory holds what was there before."""


@dataclass(frozen=True)
class Allocation:
    address: int
    bytes: NDArray[np.uint8]
    is_host: bool

    @property
    def window(self) -> Window:
        return Window(self.address, self.bytes.size, self.bytes.ctypes.data)


class Memory:
    """What is allocated on one card, and pinned for it."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.live: dict[int, Allocation] = {}
        self._next = BASE

    @property
    def used_bytes(self) -> int:
        return sum(one.bytes.size for one in self.live.values() if not one.is_host)

    def take(self, size: int, is_host: bool) -> Allocation | None:
        """None if the card has no room for it."""
        if not is_host and size > self.size_bytes - self.used_bytes:
            return None
        raw = np.full(size + 256, POISON, np.uint8)
        start = -raw.ctypes.data % 256
        held = raw[start : start + size]
        address = held.ctypes.data if is_host else self._next
        self._next += 0 if is_host else round_up(size, GAP) + GAP
        self.live[address] = Allocation(address, held, is_host)
        return self.live[address]

    def find(self, address: int, size: int, is_host: bool) -> NDArray[np.uint8] | None:
        """The bytes, if they lie within one live allocation."""
        for one in self.live.values():
            offset = address - one.address
            if one.is_host == is_host and offset >= 0 and offset + size <= one.bytes.size:
                return one.bytes[offset : offset + size]
        return None

    @property
    def windows(self) -> list[Window]:
        return [one.window for one in self.live.values()]
