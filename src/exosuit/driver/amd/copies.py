"""Copies between host and card by the copy engine, through slots of pinned host memory.

While the engine empties one slot the host fills the next, so that a load runs at the link's speed.
A write is done when the engine has read it; the host only waits when it needs the slot again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.amd.ring import COPY_SIGNAL, Ring, Seen, SignalPage
from exosuit.driver.amd.waiting import Waiting
from exosuit.link.function import DmaMemory
from exosuit.silicon.amd.sdma import MOST_BYTES, ConstFill, CopyCount, CopyLinear, Fence
from exosuit.units import GpuAddress, MiB

SLOT_BYTES = 8 * MiB
"""Large, because each submission costs the card a round trip to host memory."""
SLOTS = 2
STAGING_BYTES = SLOTS * SLOT_BYTES

_DWORD = 4
_MOST_FILL = 1 << 30
_FILLS_AT_ONCE = 64


class Copies:
    """The copy queue of one card, with its staging memory at the virtual address `staged_at`."""

    def __init__(
        self,
        ring: Ring,
        page: SignalPage,
        waiting: Waiting,
        staging: DmaMemory,
        staged_at: GpuAddress,
    ) -> None:
        self._ring = ring
        self._signal = GpuAddress(page.address + COPY_SIGNAL)
        self._waiting = waiting
        self._staging = staging
        self._staged_at = staged_at
        self._value = 0
        self._finished = 0
        self._used = [0] * SLOTS
        self._next = 0

    def write(self, target: GpuAddress, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card; `data` may be changed as soon as this returns."""
        for start in range(0, data.size, SLOT_BYTES):
            part = data[start : start + SLOT_BYTES]
            slot = self._take_slot()
            self._staging.write(slot * SLOT_BYTES, _whole_dwords(part))
            source = self._staged_at + slot * SLOT_BYTES
            self._used[slot] = self._submit(copy(source, target + start, part.size))

    def read(self, source: GpuAddress, target: NDArray[np.uint8]) -> None:
        """Copy bytes from the card, one slot ahead of what the host takes out."""
        pending: list[tuple[int, int, int]] = []
        for start in range(0, target.size, SLOT_BYTES):
            size = min(SLOT_BYTES, target.size - start)
            slot = self._take_slot()
            at = self._staged_at + slot * SLOT_BYTES
            self._used[slot] = self._submit(copy(source + start, at, size))
            pending.append((slot, start, size))
            if len(pending) == SLOTS:
                self._fetch(*pending.pop(0), target)
        for slot, start, size in pending:
            self._fetch(slot, start, size, target)

    def fill(self, target: GpuAddress, size: int) -> None:
        """Zero `size` bytes, a multiple of 4."""
        packets: list[bytes] = []
        for start in range(0, size, _MOST_FILL):
            part = min(_MOST_FILL, size - start)
            count = CopyCount(count=part - 1)
            packets.append(bytes(ConstFill.build(target=target + start, value=0, count=count)))
        for start in range(0, len(packets), _FILLS_AT_ONCE):
            self._submit(b"".join(packets[start : start + _FILLS_AT_ONCE]))

    @property
    def submitted(self) -> int:
        """How many submissions there have been: whether somebody has written since."""
        return self._value

    def finish(self) -> None:
        """Return when everything submitted is done."""
        self._wait(self._value)

    def _take_slot(self) -> int:
        slot = self._next
        self._next = (slot + 1) % SLOTS
        self._wait(self._used[slot])
        return slot

    def _fetch(self, slot: int, start: int, size: int, target: NDArray[np.uint8]) -> None:
        self._wait(self._used[slot])
        whole = -(-size // _DWORD) * _DWORD
        data = self._staging.read(slot * SLOT_BYTES, whole)
        target[start : start + size] = np.frombuffer(data, np.uint8, size)

    def _submit(self, packets: bytes) -> int:
        """Append packets and a fence; the value that the signal will have."""
        if self._waiting.problem is not None:
            raise self._waiting.problem
        self._value += 1
        value = self._value & 0xFFFF_FFFF
        self._ring.submit(
            packets + bytes(Fence.build(target=self._signal, value=value)), self._room
        )
        return self._value

    def _room(self, fits: Callable[[], bool]) -> None:
        self._waiting.until(lambda seen: fits(), "earlier copies")

    def _wait(self, value: int) -> None:
        if value <= self._finished:
            return

        def reached(seen: Seen) -> bool:
            return has_passed(seen.copy, value)

        self._waiting.until(reached, "a copy")
        self._finished = value


def copy(source: int, target: int, size: int) -> bytes:
    """The packets that copy `size` bytes."""
    packets: list[bytes] = []
    for start in range(0, size, MOST_BYTES):
        count = CopyCount(count=min(size - start, MOST_BYTES) - 1)
        packet = CopyLinear.build(source=source + start, target=target + start, count=count)
        packets.append(bytes(packet))
    return b"".join(packets)


def has_passed(seen: int, value: int) -> bool:
    """Whether a 32-bit signal has reached `value`, which it may have wrapped past."""
    return (seen - value) & 0xFFFF_FFFF < 1 << 31


def _whole_dwords(data: NDArray[np.uint8]) -> memoryview:
    """The bytes, padded to what a link carries."""
    if data.size % _DWORD:
        data = np.concatenate([data, np.zeros(-data.size % _DWORD, np.uint8)])
    return data.data
