"""The part of VRAM that the host writes by itself, through the window of BAR 1.

Posted writes are answered by nobody: what goes past the window, or to one that leads elsewhere,
vanishes in silence, and many of them at once have brought down links behind Thunderbolt bridges. So
every access is checked against the window, the first write is read back, and after so many bytes
one read gives the link time.

Sources: reports to tinygrad 15638, 15813, 16454.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.driver.nvidia.route import Data
from exosuit.errors import BootFailed
from exosuit.link.function import Bar
from exosuit.units import VramAddress

_PROBE = 0x6578_6F73
"""What the probe writes: no value that an unused bus would give."""


class Vram:
    """The window, and how much is written to it in a row.

    burst_bytes  most bytes between two reads
    """

    def __init__(self, bar: Bar, burst_bytes: int) -> None:
        self._bar = bar
        self._burst_bytes = burst_bytes
        self._since_read = 0
        self.largest_burst = 0
        """Most bytes that were written in a row so far."""

    def probe(self, address: VramAddress) -> None:
        """Raise BootFailed unless what is written at an address can be read there."""
        for value in (_PROBE, _PROBE ^ 0xFFFF_FFFF):
            self.write32(address, value)
            found = self.read32(address)
            if found != value:
                raise BootFailed(
                    f"the card's memory does not keep what is written (BAR 1 reads {found:#010x})",
                    cause="its link was retrained and did not come back, or the window leads"
                    " elsewhere: some Thunderbolt docks do that to some cards",
                    next="switch the enclosure off and on; try another port or enclosure",
                    value=found,
                )

    def read32(self, address: int) -> int:
        self._since_read = 0
        return self._bar.read32(address)

    def write32(self, address: int, value: int) -> None:
        self._pace(4, address)
        self._bar.write32(address, value)

    def write(self, address: int, data: Data) -> None:
        """In pieces that the link can take. Raises LinkError past the window's end."""
        view = memoryview(data).cast("B")
        step = self._burst_bytes
        for at in range(0, len(view), step):
            piece = view[at : at + step]
            self._pace(len(piece), address + at)
            self._bar.write(address + at, piece)

    def _pace(self, size: int, address: int) -> None:
        if self._since_read + size > self._burst_bytes:
            self._bar.read32(address & ~3)
            self._since_read = 0
        self._since_read += size
        self.largest_burst = max(self.largest_burst, self._since_read)


@dataclass(frozen=True)
class VramPart:
    """Part of the window, as a window of its own; rings and USERD are such.

    What is written here is a handful of bytes for each submission, and never in a row.
    """

    bar: Bar
    start: int

    def read32(self, offset: int) -> int:
        return self.bar.read32(self.start + offset)

    def write32(self, offset: int, value: int) -> None:
        self.bar.write32(self.start + offset, value)

    def write(self, offset: int, data: Data) -> None:
        self.bar.write(self.start + offset, data)
