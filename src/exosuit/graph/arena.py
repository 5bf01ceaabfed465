"""An arena: one buffer of a device from which regions are cut in order.

`mark` and `rewind` reuse memory between things that never run at the same time.
"""

from __future__ import annotations

from exosuit.driver.device import Buffer, Device, Region
from exosuit.errors import DoesNotFit
from exosuit.units import human_bytes, round_up

_ALIGN = 128


class Arena:
    def __init__(
        self,
        device: Device | None,
        size_bytes: int,
        name: str,
        sparse: bool = False,
        host: bool = False,
    ) -> None:
        self._device = device
        self.buffer = (
            Buffer(name, 0, size_bytes)
            if device is None
            else device.allocate(size_bytes, name, sparse, host)
        )
        self._used = 0
        self._most = 0

    @staticmethod
    def measuring() -> Arena:
        """An arena without memory, to learn from `most_bytes` how much a recording takes."""
        return Arena(None, 1 << 62, "measured")

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
        self._most = max(self._most, self._used)
        return self.buffer.region(start, size_bytes)

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def most_bytes(self) -> int:
        """The most that was ever in use."""
        return self._most

    def mark(self) -> int:
        return self._used

    def rewind(self, mark: int) -> None:
        """Forget every region taken since `mark`."""
        self._used = mark

    def close(self) -> None:
        if self._device is not None:
            self._device.free(self.buffer)
