"""Where a card's firmware files come from."""

from __future__ import annotations

from typing import Protocol


class FirmwareSource(Protocol):
    """A store of files laid out as linux-firmware lays them out."""

    def read(self, path: str) -> bytes:
        """The file of that path in linux-firmware (`amdgpu/...`); raises an ExosuitError."""
        ...
