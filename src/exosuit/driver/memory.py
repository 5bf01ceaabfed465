"""What is allocated on one card: local memory and host memory, each at a virtual address.

Between buffers lies unmapped room, so that a program that runs over the end of one faults instead
of changing the next. Everything has a name, for people who read about faults and full memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from exosuit.driver.faults import Named
from exosuit.driver.ranges import Range, Ranges
from exosuit.errors import DoesNotFit, LinkError
from exosuit.link.function import PAGE, DmaMemory, PciFunction
from exosuit.units import GpuAddress, MiB, human_bytes, round_up

LARGE_PAGE = 2 * MiB
"""What one large entry of a card's page tables covers, on every family that we drive."""


class AddressSpace(Protocol):
    """What virtual addresses mean on one card."""

    def map(self, virtual: GpuAddress, pieces: Iterable[tuple[int, int]], *, system: bool) -> None:
        """Map `pieces`, (address, size) in local memory or on the bus with `system`, in a row."""
        ...

    def unmap(self, virtual: GpuAddress, size: int) -> None: ...

    def flush(self) -> None:
        """Let the card know of every map and unmap so far."""
        ...


@dataclass(frozen=True)
class Allocation:
    """Memory at `address`: pieces of local memory, or host memory."""

    name: str
    address: GpuAddress
    size: int
    reserved: int
    pieces: tuple[Range, ...]
    host: DmaMemory | None


class Memory:
    """The allocator of one card.

    local      local memory that is free to be used
    addresses  virtual addresses that are given out, the lowest free ones first
    """

    def __init__(self, space: AddressSpace, local: Ranges, addresses: Ranges) -> None:
        self._space = space
        self._local = local
        self._addresses = addresses
        self._address_bytes = addresses.free_bytes
        self._live: dict[int, Allocation] = {}
        self.local_bytes = local.free_bytes

    def take(self, size: int, name: str) -> Allocation:
        """Local memory. Raises DoesNotFit, with what takes the room."""
        granule = LARGE_PAGE if size >= LARGE_PAGE else PAGE
        reserved = round_up(max(size, 1), granule)
        pieces = None
        if reserved <= self._local.free_bytes:
            pieces = self._local.take_pieces(reserved, granule)
            if pieces is None and granule != PAGE:
                pieces = self._local.take_pieces(reserved, PAGE)
        if pieces is None:
            raise self._full(size, name)
        address = self._place(reserved, granule)
        self._space.map(address, pieces, system=False)
        return self._keep(Allocation(name, address, size, reserved, tuple(pieces), None))

    def take_host(self, link: PciFunction, size: int, name: str) -> Allocation:
        """Host memory of the link's that programs reach. Raises DoesNotFit where it has none."""
        try:
            memory = link.allocate_dma(max(size, 1))
        except LinkError as error:
            raise DoesNotFit(
                f"{human_bytes(size)} of host memory for {name} cannot be had",
                cause=f"the link refuses: {error.what}",
                next="close other programs, or use a smaller --context",
            ) from error
        return replace(self.map_host(memory, name), size=size)

    def map_host(self, memory: DmaMemory, name: str) -> Allocation:
        """Host memory, made visible to programs and queues."""
        reserved = round_up(memory.size, PAGE)
        granule = LARGE_PAGE if reserved >= LARGE_PAGE else PAGE
        address = self._place(reserved, granule)
        pieces: list[tuple[int, int]] = []
        left = reserved
        for segment in memory.segments:
            pieces.append((segment.address, min(round_up(segment.size, PAGE), left)))
            left -= pieces[-1][1]
        assert left == 0, "DMA memory has fewer segments than bytes"
        self._space.map(address, [p for p in pieces if p[1]], system=True)
        return self._keep(Allocation(name, address, memory.size, reserved, (), memory))

    def give(self, allocation: Allocation) -> None:
        """Take back memory that nothing uses any more, in any queue."""
        del self._live[allocation.address]
        self._space.unmap(allocation.address, allocation.reserved)
        for piece in allocation.pieces:
            self._local.give(piece.start, piece.size)
        self._addresses.give(allocation.address, allocation.reserved + self._gap(allocation))
        if allocation.host is not None:
            self._space.flush()  # the card must have forgotten it before it is somebody else's
            allocation.host.free()

    def flush(self) -> None:
        """Let the card know of all maps; before anything is submitted that uses them."""
        self._space.flush()

    def named(self) -> list[Named]:
        """Every buffer, by address."""
        found = [Named(a.name, a.address, a.size) for a in self._live.values()]
        return sorted(found, key=lambda buffer: buffer.address)

    def _place(self, reserved: int, granule: int) -> GpuAddress:
        address = self._addresses.take(reserved + granule, granule)
        if address is None:
            raise DoesNotFit(
                f"no virtual addresses are left for {human_bytes(reserved)}",
                cause=f"{human_bytes(self._address_bytes)} are in use",
                next="use a smaller model",
            )
        return GpuAddress(address)

    @staticmethod
    def _gap(allocation: Allocation) -> int:
        return LARGE_PAGE if allocation.reserved >= LARGE_PAGE else PAGE

    def _keep(self, allocation: Allocation) -> Allocation:
        self._live[allocation.address] = allocation
        return allocation

    def _full(self, size: int, name: str) -> DoesNotFit:
        largest = sorted(
            (a for a in self._live.values() if a.host is None), key=lambda a: -a.reserved
        )[:3]
        holders = ", ".join(f"{a.name} {human_bytes(a.size)}" for a in largest)
        free = self._local.free_bytes
        return DoesNotFit(
            f"{human_bytes(size)} for {name} do not fit; the card has {human_bytes(free)} free",
            cause=f"it has {human_bytes(self.local_bytes)} for buffers"
            + (f"; most is taken by {holders}" if holders else ""),
            next="use a smaller --context or a smaller model:  exosuit plan MODEL",
            wanted=size,
            free=free,
        )
