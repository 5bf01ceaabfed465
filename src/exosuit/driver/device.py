"""`Device`: anything that has memory, runs programs and drains a queue.

Everything above this floor sees devices only through these words. A `Buffer` is memory of one
device, a `Region` a part of one. A `Launch` is one program with its arguments; a list of launches
is prepared once into what the device replays best and then replayed with one call.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.errors import ShapeMismatch
from exosuit.program import Access, Program


class Buffer:
    """Memory of a device. `address` is what the device's programs use.

    Owned by whoever allocated it; `Device.free` gives it back.
    """

    def __init__(self, name: str, address: int, size_bytes: int, owner: Any = None) -> None:
        self.name = name
        self.address = address
        self.size_bytes = size_bytes
        self.owner = owner

    def region(self, offset: int = 0, size_bytes: int | None = None) -> Region:
        """A part of the buffer; the rest of it from `offset` where no size is given."""
        size = self.size_bytes - offset if size_bytes is None else size_bytes
        if offset < 0 or size < 0 or offset + size > self.size_bytes:
            raise ShapeMismatch(
                f"{size} bytes at {offset} of buffer {self.name!r}, which has {self.size_bytes}",
                cause="the region does not lie within its buffer",
                next="report it: this is a mistake in exosuit",
            )
        return Region(self, offset, size)


@dataclass(frozen=True)
class Region:
    """`size_bytes` of a buffer from `offset` on."""

    buffer: Buffer
    offset: int
    size_bytes: int

    @property
    def address(self) -> int:
        return self.buffer.address + self.offset

    def part(self, offset: int, size_bytes: int) -> Region:
        return self.buffer.region(self.offset + offset, size_bytes)

    def overlaps(self, other: Region) -> bool:
        """Whether they share a byte; an empty region shares none."""
        start = max(self.offset, other.offset)
        stop = min(self.offset + self.size_bytes, other.offset + other.size_bytes)
        return self.buffer is other.buffer and start < stop


Argument = Region | int | float


@dataclass(frozen=True)
class Launch:
    """One program over `groups` workgroups.

    fence  everything recorded before must be complete and visible before this begins
    """

    program: Program
    groups: int
    arguments: tuple[Argument, ...]
    fence: bool

    def argument_block(self) -> bytes:
        """The arguments as programs read them: eight bytes each, addresses for regions."""
        words: list[bytes] = []
        for parameter, argument in zip(self.program.parameters, self.arguments, strict=True):
            if parameter.access is not Access.VALUE:
                assert isinstance(argument, Region), parameter.name
                words.append(struct.pack("<Q", argument.address))
            elif parameter.dtype == "f32":
                assert not isinstance(argument, Region), parameter.name
                words.append(struct.pack("<fI", argument, 0))
            else:
                assert isinstance(argument, int), parameter.name
                words.append(struct.pack("<q", argument))
        return b"".join(words)


class Replay(Protocol):
    """Launches that a device has prepared."""

    def run(self) -> None:
        """Replay once and return when all of it is done."""
        ...

    def close(self) -> None: ...


class Device(Protocol):
    """What computes. One thread uses a device at a time."""

    @property
    def name(self) -> str:
        """As in `--device`."""
        ...

    @property
    def target(self) -> str:
        """Name of the target that programs must be compiled for."""
        ...

    @property
    def memory_bytes(self) -> int: ...

    @property
    def parallel_groups(self) -> int:
        """Workgroups that run at the same time; recordings split work for about so many."""
        ...

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        """Zeroed memory, aligned to at least 64 bytes; DoesNotFit if there is not enough.

        sparse  only parts of it may ever be touched, so nothing is reserved in large pages
        host    in the host's own memory, which programs reach and `host_view` shows: for what the
                host reads every step, so that nothing need be fetched from a card
        """
        ...

    def free(self, buffer: Buffer) -> None: ...

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any] | None:
        """The region as an array of the host's, where the host can see it; else None."""
        ...

    def copy_in(self, region: Region, data: NDArray[Any]) -> None: ...

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        """A copy of the region's bytes as an array of `dtype`."""
        ...

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        """Host memory that the device's programs may read, as long as `data` lives.

        A device that cannot reach foreign memory copies it, as it is now.
        """
        ...

    def prepare(self, launches: Sequence[Launch]) -> Replay: ...

    def close(self) -> None: ...


def takes_cubins(device: Device) -> bool:
    """Whether the device's programs may be NVIDIA machine code, as packs have them.

    One that does has an attribute of this name that is true; models that run PTX have not.
    """
    return bool(getattr(device, "takes_cubins", False))
