"""Memory as the engines of a card see it: GPU virtual addresses of one address space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from exosuit.softcard.nvidia.ptx.grid import Window


class MemoryFault(Exception):
    """An access that the address space does not allow.

    address  GPU virtual address of the first byte that failed
    write    whether it was to be written
    reason   for people: "nothing is mapped", "read-only", "a stale translation"
    """

    def __init__(self, address: int, write: bool, reason: str) -> None:
        super().__init__(f"{'write' if write else 'read'} at {address:#x}: {reason}")
        self.address = address
        self.write = write
        self.reason = reason


class GpuMemory(Protocol):
    """One address space. Local memory and host memory look the same through it."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes. Raises MemoryFault."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Raises MemoryFault, before anything is written if it can."""
        ...

    def windows(self) -> Sequence[Window]:
        """Everything that programs may reach at this moment, in order of addresses, joined where
        neighbours lie side by side in this process too.

        Asked before every launch: keep it until a mapping changes.
        """
        ...

    def host_bytes(self, address: int, size: int) -> int:
        """How many of these bytes lie in host memory, across the link; for virtual time."""
        ...
