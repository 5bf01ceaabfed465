"""Memory of the host as a software card sees it: pages at bus addresses, and nothing else.

Bus addresses are not what anybody might guess: they start high, leave gaps, and a mapping that is
not asked to be contiguous comes in pieces, so that a driver that mixes address kinds is caught.
Pages are backed by anonymous shared memory with a descriptor, which the UNIX flavour passes on.
"""

from __future__ import annotations

import bisect
import fcntl
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from exosuit.errors import LinkError
from exosuit.link.function import PAGE, Segment
from exosuit.units import BusAddress, GiB, human_bytes, round_up

FIRST_ADDRESS = 0x1_2340_0000
"""Bus addresses start here and stay below 2^40, the app's limit."""
LAST_ADDRESS = 1 << 40
PIECES = 8
"""A mapping that need not be contiguous comes in up to so many segments."""


class HostFault(Exception):
    """The card touched a bus address that is not mapped for it."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"{size} bytes at bus address {address:#x} are not mapped")
        self.address = address
        self.size = size


@dataclass(slots=True)
class Mapping:
    """One mapped range of host memory; `descriptor` is its shared-memory file."""

    handle: int
    size: int
    view: memoryview
    segments: list[Segment]
    descriptor: int


class HostMemory:
    """Everything that is mapped for one card.

    limit     most bytes that one client may have mapped
    pieces    in so many segments comes what need not be contiguous; an IOMMU makes it one
    on_unmap  called with memory that is about to go: who keeps addresses of it must drop them
    """

    def __init__(self, limit: int = 8 * GiB) -> None:
        self.limit = limit
        self.pieces = PIECES
        self.on_unmap: Callable[[memoryview], None] = lambda view: None
        self.mappings: dict[int, Mapping] = {}
        self._starts: list[int] = []
        self._places: list[tuple[int, int, memoryview]] = []
        self._next_handle = 1
        self._next_address = FIRST_ADDRESS

    def map(self, size: int, *, contiguous: bool) -> Mapping:
        """Map `size` bytes, rounded up to pages. Raises LinkError past the limit."""
        size = round_up(max(size, 1), PAGE)
        used = sum(mapping.size for mapping in self.mappings.values())
        if size > self.limit - used:
            raise LinkError(
                f"{human_bytes(size)} of DMA memory are too much",
                cause=f"this card lends {human_bytes(self.limit)} in all,"
                f" {human_bytes(used)} are used",
                next="ask for less",
                size=size,
            )
        try:
            descriptor = shared_memory(size)
            view = memoryview(mmap.mmap(descriptor, size))
        except OSError as error:
            raise LinkError(
                f"{human_bytes(size)} of DMA memory cannot be had",
                cause=str(error),
                next="ulimit -n   (each mapping takes a file descriptor)",
            ) from error
        mapping = Mapping(
            self._next_handle, size, view, self._scatter(size, contiguous), descriptor
        )
        self._next_handle += 1
        self.mappings[mapping.handle] = mapping
        offset = 0
        for segment in mapping.segments:
            self._add(segment.address, view[offset : offset + segment.size])
            offset += segment.size
        return mapping

    def unmap(self, handle: int) -> None:
        """Take one mapping away; the card faults where it was."""
        mapping = self.mappings.pop(handle)
        self.on_unmap(mapping.view)
        for segment in mapping.segments:
            index = bisect.bisect_left(self._starts, segment.address)
            del self._starts[index], self._places[index]
        os.close(mapping.descriptor)

    def clear(self) -> None:
        """Unmap everything, as when the client is gone."""
        for handle in list(self.mappings):
            self.unmap(handle)

    def view(self, address: int, size: int) -> memoryview:
        """The bytes at `address` if they lie in one segment. Raises HostFault."""
        parts = self.parts(address, size)
        if len(parts) != 1:
            raise HostFault(address, size)
        return parts[0]

    def parts(self, address: int, size: int) -> list[memoryview]:
        """The bytes at `address`, in as many pieces as segments. Raises HostFault."""
        found: list[memoryview] = []
        while size > 0:
            index = bisect.bisect_right(self._starts, address) - 1
            if index < 0:
                raise HostFault(address, size)
            start, length, view = self._places[index]
            offset = address - start
            if offset >= length:
                raise HostFault(address, size)
            taken = min(size, length - offset)
            found.append(view[offset : offset + taken])
            address += taken
            size -= taken
        return found

    def _add(self, address: int, view: memoryview) -> None:
        index = bisect.bisect_right(self._starts, address)
        self._starts.insert(index, address)
        self._places.insert(index, (address, len(view), view))

    def _scatter(self, size: int, contiguous: bool) -> list[Segment]:
        pages = size // PAGE
        per_piece = pages if contiguous else max(-(-pages // self.pieces), 1)
        segments: list[Segment] = []
        for first in range(0, pages, per_piece):
            length = min(per_piece, pages - first) * PAGE
            if self._next_address + length > LAST_ADDRESS:
                self._next_address = FIRST_ADDRESS  # addresses of long-gone clients come again
            segments.append(Segment(BusAddress(self._next_address), length))
            gap = 3 * PAGE if first % 2 else 16 * PAGE
            self._next_address += length + gap
        return segments


def shared_memory(size: int) -> int:
    """A descriptor of `size` zero bytes that other processes can map.

    On Linux it is sealed: a client that shrinks its file would kill the server by SIGBUS.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create("exosuit-dma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        descriptor, path = tempfile.mkstemp(prefix="exosuit-dma-")
        os.unlink(path)
    try:
        os.ftruncate(descriptor, size)
        if sys.platform == "linux":
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
