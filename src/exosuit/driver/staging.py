"""Copies between host and card through slots of host memory that the card's copy engine reaches.

While the engine empties one slot the host fills the next, so that a load runs at the link's speed.
A write is done when the engine has read it; the host only waits when it needs the slot again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.placed import HostMemory
from exosuit.units import GpuAddress, MiB

SLOT_BYTES = 8 * MiB
"""Large, because each submission costs the card a round trip to host memory."""
SLOTS = 2
STAGING_BYTES = SLOTS * SLOT_BYTES

_DWORD = 4


class CopyEngine(Protocol):
    """What copies; submissions are done in order."""

    def copy(self, source: int, target: int, size: int) -> int:
        """Submit a copy; the value to wait for. Sizes are at most SLOT_BYTES."""
        ...

    def wait(self, value: int) -> None:
        """Return when the submission of that value is done; 0 is."""
        ...


class Staging:
    """The slots, in `memory` that the card sees at `address`."""

    def __init__(self, memory: HostMemory, address: GpuAddress, engine: CopyEngine) -> None:
        self._memory = memory
        self._address = address
        self._engine = engine
        self._used = [0] * SLOTS
        self._next = 0

    def write(self, target: GpuAddress, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card; `data` may be changed as soon as this returns."""
        for start in range(0, data.size, SLOT_BYTES):
            part = data[start : start + SLOT_BYTES]
            slot = self._take_slot()
            self._memory.write(slot * SLOT_BYTES, _whole_dwords(part))
            source = self._address + slot * SLOT_BYTES
            self._used[slot] = self._engine.copy(source, target + start, part.size)

    def read(self, source: GpuAddress, target: NDArray[np.uint8]) -> None:
        """Copy bytes from the card, one slot ahead of what the host takes out."""
        pending: list[tuple[int, int, int]] = []
        for start in range(0, target.size, SLOT_BYTES):
            size = min(SLOT_BYTES, target.size - start)
            slot = self._take_slot()
            at = self._address + slot * SLOT_BYTES
            self._used[slot] = self._engine.copy(source + start, at, size)
            pending.append((slot, start, size))
            if len(pending) == SLOTS:
                self._fetch(*pending.pop(0), target)
        for slot, start, size in pending:
            self._fetch(slot, start, size, target)

    def _take_slot(self) -> int:
        slot = self._next
        self._next = (slot + 1) % SLOTS
        self._engine.wait(self._used[slot])
        return slot

    def _fetch(self, slot: int, start: int, size: int, target: NDArray[np.uint8]) -> None:
        self._engine.wait(self._used[slot])
        whole = -(-size // _DWORD) * _DWORD
        data = self._memory.read(slot * SLOT_BYTES, whole)
        target[start : start + size] = np.frombuffer(data, np.uint8, size)


def _whole_dwords(data: NDArray[np.uint8]) -> memoryview:
    """The bytes, padded to what a link carries."""
    if data.size % _DWORD:
        data = np.concatenate([data, np.zeros(-data.size % _DWORD, np.uint8)])
    return data.data
