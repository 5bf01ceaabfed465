"""Copies and fills by the card's copy engine, SDMA.

Host and card meet in slots of pinned host memory (`driver.staging`); the queue is the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.amd.ring import COPY_SIGNAL, Ring, Seen, SignalPage
from exosuit.driver.amd.waiting import Waiting
from exosuit.driver.staging import Staging
from exosuit.driver.timeline import has_passed
from exosuit.link.function import DmaMemory
from exosuit.silicon.amd.sdma import MOST_BYTES, ConstFill, CopyCount, CopyLinear, Fence
from exosuit.units import GpuAddress

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
        self._staging = Staging(staging, staged_at, self)
        self._value = 0
        self._finished = 0

    def write(self, target: GpuAddress, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card; `data` may be changed as soon as this returns."""
        self._staging.write(target, data)

    def read(self, source: GpuAddress, target: NDArray[np.uint8]) -> None:
        """Copy bytes from the card."""
        self._staging.read(source, target)

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
        self.wait(self._value)

    def copy(self, source: int, target: int, size: int) -> int:
        """Submit a copy; the value that the signal will have."""
        return self._submit(copy(source, target, size))

    def wait(self, value: int) -> None:
        """Return when the submission of that value is done."""
        if value <= self._finished:
            return

        def reached(seen: Seen) -> bool:
            return has_passed(seen.copy, value)

        self._waiting.until(reached, "a copy")
        self._finished = value

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


def copy(source: int, target: int, size: int) -> bytes:
    """The packets that copy `size` bytes."""
    packets: list[bytes] = []
    for start in range(0, size, MOST_BYTES):
        count = CopyCount(count=min(size - start, MOST_BYTES) - 1)
        packet = CopyLinear.build(source=source + start, target=target + start, count=count)
        packets.append(bytes(packet))
    return b"".join(packets)
