"""Copies between host and card through slots of pinned host memory, on the card's one stream.

While the card empties one slot the host fills the next, so that a load runs at the link's speed. A
write has been done for whoever asks the stream for anything later; the host waits only when it
needs a slot again. Many small writes share a slot.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.cuda.context import EVENT_NO_TIMING, Context
from exosuit.driver.cuda.memory import Memory
from exosuit.units import MiB, round_up

SLOT_BYTES = 8 * MiB
SLOTS = 2
_ALIGN = 64


class _Slot:
    """Pinned memory, how much of it is used, and the event of its last use."""

    def __init__(self, context: Context, memory: Memory, name: str) -> None:
        self.allocation = memory.take_host(SLOT_BYTES, name)
        assert self.allocation.host is not None
        self.address = self.allocation.host.place
        self.bytes = np.frombuffer(self.allocation.host.view, np.uint8)
        self.event = context.handle("cuEventCreate", EVENT_NO_TIMING)
        self.used = 0
        self.is_pending = False


class Copies:
    """The staging memory of one card."""

    def __init__(self, context: Context, memory: Memory) -> None:
        self._context = context
        self._memory = memory
        self._slots = deque(_Slot(context, memory, f"staging {k}") for k in range(SLOTS))

    def write(self, target: int, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card; `data` may be changed as soon as this returns."""
        done = 0
        while done < data.size:
            slot = self._slots[0]
            if slot.used == SLOT_BYTES:
                slot = self._turn()
            size = min(data.size - done, SLOT_BYTES - slot.used)
            slot.bytes[slot.used : slot.used + size] = data[done : done + size]
            self._context.call(
                "cuMemcpyHtoDAsync_v2",
                target + done, slot.address + slot.used, size, self._context.stream,
            )  # fmt: skip
            slot.used = min(round_up(slot.used + size, _ALIGN), SLOT_BYTES)
            done += size

    def read(self, source: int, target: NDArray[np.uint8]) -> None:
        """Copy bytes from the card, and wait for them."""
        waiting: deque[tuple[_Slot, NDArray[np.uint8]]] = deque()
        for start in range(0, target.size, SLOT_BYTES):
            if len(waiting) == SLOTS:
                self._collect(*waiting.popleft())
            part = target[start : start + SLOT_BYTES]
            slot = self._turn()
            self._context.call(
                "cuMemcpyDtoHAsync_v2",
                slot.address, source + start, part.size, self._context.stream,
            )  # fmt: skip
            self._record(slot)
            slot.used = SLOT_BYTES
            waiting.append((slot, part))
        for slot, part in waiting:
            self._collect(slot, part)

    def fill(self, target: int, size: int) -> None:
        """Zero bytes of the card's memory."""
        self._context.call("cuMemsetD8Async", target, 0, size, self._context.stream)

    def finish(self) -> None:
        """Return when everything that was asked for is done; from any thread."""
        self._context.enter()
        self._context.finish("the work before")

    def close(self) -> None:
        for slot in self._slots:
            self._context.call("cuEventDestroy_v2", slot.event)
            self._memory.give(slot.allocation)
        self._slots.clear()

    def _turn(self) -> _Slot:
        """The slot that was used longest ago, empty; the other one is left as it is."""
        if self._slots[0].used:
            if not self._slots[0].is_pending:
                self._record(self._slots[0])
            self._slots.rotate(-1)
        slot = self._slots[0]
        if slot.is_pending:
            self._context.reached(slot.event, "a copy")
            slot.is_pending = False
        slot.used = 0
        return slot

    def _record(self, slot: _Slot) -> None:
        self._context.call("cuEventRecord", slot.event, self._context.stream)
        slot.is_pending = True

    def _collect(self, slot: _Slot, part: NDArray[np.uint8]) -> None:
        self._context.reached(slot.event, "a copy")
        slot.is_pending = False
        part[:] = slot.bytes[: part.size]
