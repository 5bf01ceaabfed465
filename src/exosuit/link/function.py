"""`PciFunction`: the seam between a driver and a card, wherever the card is.

Four kinds of access, with different costs. Configuration space is slow everywhere. A BAR is read
by a round trip and written without waiting ("posted"): an error in a posted write shows only at
the next access that waits. DMA memory is memory of the host that the card can reach at bus
addresses; where it is mapped into this process (`view`), touching it costs nothing.

A link belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from exosuit.errors import LinkError
from exosuit.units import BusAddress, human_bytes

Data = bytes | bytearray | memoryview

PAGE = 4096
"""Granule of DMA memory, in bytes; bus addresses are multiples of it."""


@dataclass(slots=True)
class Counters:
    """What crossed the link so far.

    reads, writes  accesses to BARs, and to DMA memory where that is a request of its own
    bytes_read, bytes_written  their payload
    round_trips    everything that waited for an answer, configuration and set-up included
    """

    reads: int = 0
    writes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    round_trips: int = 0

    def since(self, earlier: Counters) -> Counters:
        """The difference to an earlier copy."""
        return Counters(
            *(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(Counters))
        )

    def copy(self) -> Counters:
        return self.since(Counters())


class Segment(NamedTuple):
    """A run of DMA memory that is contiguous on the bus; `size` in bytes."""

    address: BusAddress
    size: int


class Region(Protocol):
    """Bytes that are accessed by offset: a BAR, or DMA memory.

    32- and 64-bit accesses are aligned to their size and reach the card as one access, low half
    first where the bus is narrower. Bulk accesses are aligned to 4 bytes; `read_into` fills bytes
    that the caller has. An access that leaves the region raises LinkError before anything is
    touched.
    """

    @property
    def size(self) -> int: ...

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...

    def write64(self, offset: int, value: int) -> None: ...

    def read(self, offset: int, size: int) -> bytes: ...

    def read_into(self, offset: int, target: memoryview) -> None: ...

    def write(self, offset: int, data: Data) -> None: ...


class Bar(Region, Protocol):
    """One base address region.

    address  where the card answers on the bus, as far as this link can tell (0 if it cannot)
    """

    @property
    def index(self) -> int: ...

    @property
    def address(self) -> int: ...


class DmaMemory(Region, Protocol):
    """Host memory that the card reaches; zeroed when it is allocated.

    segments  where it lies on the bus, in order, covering `size` bytes
    view      the same bytes in this process, or None where every access is a request
    """

    @property
    def segments(self) -> Sequence[Segment]: ...

    @property
    def view(self) -> memoryview | None: ...

    def bus_address(self, offset: int = 0) -> BusAddress: ...

    def free(self) -> None: ...


class PciFunction(Protocol):
    """One PCI function. Closing is idempotent and gives up the card, whatever state it is in."""

    @property
    def name(self) -> str: ...

    @property
    def counters(self) -> Counters: ...

    def read_config(self, offset: int, size: int) -> int: ...

    def write_config(self, offset: int, value: int, size: int) -> None: ...

    def bar(self, index: int) -> Bar: ...

    def resize_bar(self, index: int) -> int: ...

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> DmaMemory: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class Closing:
    """Makes a link, or anything else with `close`, usable in a `with` statement."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_access(what: str, total: int, offset: int, size: int, alignment: int = 4) -> None:
    """Refuse an access of `size` bytes at `offset` that leaves `what` or is not aligned."""
    if offset < 0 or size < 0 or offset + size > total:
        raise LinkError(
            f"{size} bytes at {offset:#x} lie outside {what} ({human_bytes(total)})",
            cause="the window is smaller than the driver takes it for"
            " (a BAR that was not resized opens 256 MiB of the card's memory)",
            next="exosuit doctor",
            offset=offset,
            size=size,
            total=total,
        )
    if offset % alignment or (alignment > 4 and size % 4):
        raise LinkError(
            f"an access to {what} at {offset:#x} is not {alignment}-byte aligned",
            cause="a mistake in the driver: the bus carries aligned words",
            next="report it with the trace:  exosuit trace record",
            offset=offset,
            size=size,
        )


def check_config(offset: int, size: int) -> None:
    """Refuse what is not an aligned 1, 2 or 4 byte access of configuration space."""
    if size not in (1, 2, 4) or offset % size or not 0 <= offset <= 4096 - size:
        raise LinkError(
            f"{size} bytes at {offset:#x} are no access to configuration space",
            cause="a mistake in the driver: it takes aligned accesses of 1, 2 or 4 bytes",
            next="report it with the trace:  exosuit trace record",
            offset=offset,
            size=size,
        )


def locate(segments: Sequence[Segment], offset: int) -> BusAddress:
    """The bus address of byte `offset` of memory that lies in `segments`."""
    remaining = offset
    for segment in segments:
        if remaining < segment.size:
            return BusAddress(segment.address + remaining)
        remaining -= segment.size
    raise IndexError(f"offset {offset:#x} lies outside {len(segments)} segments")


def cut(segments: Sequence[Segment], offset: int, size: int) -> list[Segment]:
    """The segments of the `size` bytes from `offset` on."""
    found: list[Segment] = []
    for address, length in segments:
        if offset < length and size > 0:
            taken = min(length - offset, size)
            found.append(Segment(BusAddress(address + offset), taken))
            size -= taken
        offset = max(offset - length, 0)
    return found


def join(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours on the bus merged."""
    merged: list[Segment] = []
    for address, size in segments:
        if merged and merged[-1].address + merged[-1].size == address:
            merged[-1] = Segment(merged[-1].address, merged[-1].size + size)
        else:
            merged.append(Segment(address, size))
    return merged
