"""Copies and fills by the card's copy engine.

Host and card meet in slots of host memory (`driver.staging`). Every transfer flushes what it wrote,
and the channel's release comes when the engine is idle, so what a submission copied is visible to
everybody when its number is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.nvidia.channels import Queue
from exosuit.driver.nvidia.route import Route
from exosuit.driver.staging import STAGING_BYTES, Staging
from exosuit.silicon.nvidia.copy import (
    Copy,
    LaunchDma,
    RemapComponents,
    RemapSource,
    Transfer,
)
from exosuit.silicon.nvidia.push import COPY, methods, wide
from exosuit.units import GiB, GpuAddress

_WORD = 4
_MOST_FILL = 1 * GiB
_FILLS_AT_ONCE = 32
_TRANSFER = LaunchDma(
    data_transfer_type=Transfer.NON_PIPELINED,
    flush_enable=True,
    src_memory_layout=True,
    dst_memory_layout=True,
)
_FILL = _TRANSFER.replace(remap_enable=True)
_DWORDS = RemapComponents(dst_x=RemapSource.CONST_A, component_size=_WORD - 1)
"""An element is one dword, and that the constant."""


class Copies:
    """The copy queue of one card, with its staging memory."""

    def __init__(self, route: Route, queue: Queue) -> None:
        self._queue = queue
        memory = route.take_host(STAGING_BYTES, "staging")
        assert memory.host is not None
        self._staging = Staging(memory.host, memory.address, self)

    def write(self, target: GpuAddress, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card; `data` may be changed as soon as this returns."""
        self._staging.write(target, data)

    def read(self, source: GpuAddress, target: NDArray[np.uint8]) -> None:
        """Copy bytes from the card."""
        self._staging.read(source, target)

    def fill(self, target: GpuAddress, size: int) -> None:
        """Zero `size` bytes, a multiple of 4."""
        packets = [
            fill(target + start, min(_MOST_FILL, size - start))
            for start in range(0, size, _MOST_FILL)
        ]
        for start in range(0, len(packets), _FILLS_AT_ONCE):
            self._queue.push(b"".join(packets[start : start + _FILLS_AT_ONCE]))

    def finish(self) -> None:
        """Return when everything submitted is done."""
        self.wait(self._queue.submitted)

    def copy(self, source: int, target: int, size: int) -> int:
        """Submit a copy; the number to wait for."""
        return self._queue.push(copy(source, target, size))

    def wait(self, value: int) -> None:
        """Return when the submission of that number is done."""
        self._queue.wait(value, "a copy")


def copy(source: int, target: int, size: int) -> bytes:
    """Copy `size` bytes, at most copy.MOST_BYTES."""
    return (
        methods(COPY, Copy.OFFSET_IN_UPPER, *wide(source), *wide(target))
        + methods(COPY, Copy.LINE_LENGTH_IN, size)
        + methods(COPY, Copy.LAUNCH_DMA, _TRANSFER)
    )


def fill(target: int, size: int) -> bytes:
    """Zero `size` bytes, a multiple of 4."""
    return (
        methods(COPY, Copy.SET_REMAP_CONST_A, 0)
        + methods(COPY, Copy.SET_REMAP_COMPONENTS, _DWORDS)
        + methods(COPY, Copy.OFFSET_OUT_UPPER, *wide(target))
        + methods(COPY, Copy.LINE_LENGTH_IN, size // _WORD)
        + methods(COPY, Copy.LAUNCH_DMA, _FILL)
    )
