"""Rings in host memory that the card drains, and the words by which both sides know where they are.

One page holds everything that the host polls: a signal for each queue, the pointer of the interrupt
ring, and the queues' own pointers. Where the link maps host memory, looking at it costs nothing;
where it does not, one request reads all of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from exosuit.link.function import Bar, DmaMemory
from exosuit.units import GpuAddress

COMPUTE_SIGNAL, COPY_SIGNAL, INTERRUPTS = 0, 8, 16
"""Offsets in the page; the next ones too: write pointers, then read pointers."""
COMPUTE_WRITE, COMPUTE_READ, COPY_WRITE, COPY_READ = 0x100, 0x108, 0x110, 0x118
PAGE_BYTES = 4096
RING_BYTES = 64 << 10

_POLLED = struct.Struct("<IxxxxIxxxxI")


class Seen(NamedTuple):
    """What the page said: the last values of both timelines, and the interrupt pointer."""

    compute: int
    copy: int
    interrupts: int


@dataclass(frozen=True)
class SignalPage:
    """The page, and where the card sees it."""

    memory: DmaMemory
    address: GpuAddress

    def look(self) -> Seen:
        return Seen(*_POLLED.unpack(self.memory.read(0, _POLLED.size)))

    def reset(self) -> None:
        self.memory.write(0, bytes(PAGE_BYTES))


class Ring:
    """One ring; a submission lies in it in one piece.

    unit     bytes that one step of the pointers counts
    filler   a packet that does nothing, repeated up to the end of the ring
    """

    def __init__(
        self,
        memory: DmaMemory,
        offset: int,
        page: SignalPage,
        pointers: tuple[int, int],
        doorbells: Bar,
        slot: int,
        unit: int,
        filler: bytes,
    ) -> None:
        self._memory = memory
        self._offset = offset
        self._page = page
        self._write_at, self._read_at = pointers
        self._doorbells = doorbells
        self._doorbell = 8 * slot
        self._unit = unit
        self._filler = filler
        self._put = 0
        self._known_read = 0

    def submit(self, packets: bytes, wait_for_room: Callable[[Callable[[], bool]], None]) -> None:
        """Append packets and ring the doorbell.

        wait_for_room  waits until the function that it gets holds
        """
        size = len(packets)
        assert 0 < size <= RING_BYTES // 2, size
        left = RING_BYTES - self._put % RING_BYTES
        if left < size:
            self._reserve(left + size, wait_for_room)
            filler = self._filler * (left // len(self._filler))
            self._memory.write(self._offset + self._put % RING_BYTES, filler)
            self._put += left
        else:
            self._reserve(size, wait_for_room)
        self._memory.write(self._offset + self._put % RING_BYTES, packets)
        self._put += size
        self._page.memory.write64(self._write_at, self._put // self._unit)
        self._doorbells.write64(self._doorbell, self._put // self._unit)

    def has_drained(self) -> bool:
        """Whether the card has read everything."""
        return self._read_pointer() == self._put

    def _reserve(self, size: int, wait_for_room: Callable[[Callable[[], bool]], None]) -> None:
        def fits() -> bool:
            self._known_read = self._read_pointer()
            return self._put + size - self._known_read <= RING_BYTES

        if self._put + size - self._known_read > RING_BYTES:
            wait_for_room(fits)

    def _read_pointer(self) -> int:
        low, high = struct.unpack("<II", self._page.memory.read(self._read_at, 8))
        return (low | high << 32) * self._unit
