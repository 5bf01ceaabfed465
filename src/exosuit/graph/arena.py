"""An arena: one buffer of a device from which regions are cut in order.

`mark` and `rewind` reuse memory between things that never run at the same time.
"""

from __future__ import annotations

from exosuit.driver.device import Buffer, Device, Region
from exosuit.errors import DoesNotFit
from exosuit.units import human_bytes, round_up

_ALIGN = 128


class Arena:
    def __init__(self, device: Device, size_bytes: int, name: str) -> None:
        self._device = device
        self.buffer: Buffer = device.allocate(size_bytes, name)
        self._used = 0

    def take(self, size_bytes: int) -> Region:
        """The next `size_bytes`, aligned to 128."""
        start = round_up(self._used, _ALIGN)
        if start + size_bytes > self.buffer.size_bytes:
            raise DoesNotFit(
                f"{human_bytes(size_bytes)} more do not fit into {self.buffer.name}",
                cause=f"it has {human_bytes(self.buffer.size_bytes)}, "
                f"{human_bytes(self._used)} of them in use",
                next="report it: the plan of this arena is too small",
            )
        self._used = start + size_bytes
        return self.buffer.region(start, size_bytes)

    @property
    def used_bytes(self) -> int:
        return self._used

    def mark(self) -> int:
        return self._used

    def rewind(self, mark: int) -> None:
        """Forget every region taken since `mark`."""
        self._used = mark

    def close(self) -> None:
        self._device.free(self.buffer)
