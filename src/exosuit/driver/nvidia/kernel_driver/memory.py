"""What is allocated on one card through the kernel driver, each thing at a virtual address.

Memory of the card is made by the resource manager, memory of the host is this process's own and
pinned; both are then mapped by unified memory. Between buffers lies unmapped room, so that a
program that runs over the end of one faults instead of changing the next. The host's addresses and
the card's are chosen apart: nothing needs them to be equal.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from dataclasses import dataclass

from exosuit.driver.faults import Named
from exosuit.driver.nvidia.kernel_driver import refusals
from exosuit.driver.nvidia.kernel_driver.address_space import CHANNEL_ADDRESSES, AddressSpace
from exosuit.driver.nvidia.kernel_driver.gpu import Gpu
from exosuit.driver.nvidia.route import PAGE, Memory
from exosuit.driver.ranges import Ranges
from exosuit.errors import DoesNotFit, ExosuitError
from exosuit.link.mapped import MappedMemory
from exosuit.silicon.nvidia.classes import ObjectClass
from exosuit.silicon.nvidia.ioctl import Escape, PinFlags, RmAllocMemory
from exosuit.silicon.nvidia.rm import (
    Location,
    MemoryAttributes,
    MemoryAttributes2,
    MemoryFlags,
    MemoryParams,
    MemoryType,
    PageSize,
    Physicality,
    Status,
)
from exosuit.silicon.nvidia.rm_controls import FbInfoIndex
from exosuit.units import GpuAddress, KiB, MiB, human_bytes, round_up

LARGE_PAGE, BIG_PAGE = 2 * MiB, 64 * KiB
LOW_ADDRESSES = (0x10_0000_0000, 0x20_0000_0000)
"""Given out for what must lie below 2^40, as tinygrad divides them."""
HIGH_ADDRESSES = (1 << 40, 1 << 46)
"""Given out for everything else: below the windows that programs' scratch is seen through."""
_FIRST_PINNED = 0xE505_0001
"""Handles of pinned memory are the caller's to choose; these are like none of the driver's."""
_FORMAT = 6
"""NVOS32's memory format for what is neither depth nor colour, as tinygrad asks for it."""


@dataclass(frozen=True)
class Held:
    """What gives an allocation back.

    handle    the resource manager's
    granule   of its addresses
    addresses where they came from
    """

    handle: int
    granule: int
    addresses: Ranges


class KernelMemory:
    """The allocator of one card."""

    def __init__(self, gpu: Gpu, space: AddressSpace) -> None:
        self._gpu = gpu
        self._client = gpu.client
        self._space = space
        self._low, self._high = Ranges(*LOW_ADDRESSES), Ranges(*HIGH_ADDRESSES)
        self._live: dict[int, Memory] = {}
        self._pinned = itertools.count(_FIRST_PINNED)
        self.local_bytes = gpu.memory_bytes(FbInfoIndex.HEAP_FREE)
        """Free when the card was opened, in bytes."""

    def take(self, size: int, name: str) -> Memory:
        """Memory of the card. Raises DoesNotFit, with what takes the room."""
        return self._take(size, name, self._high, Physicality.ALLOW_NONCONTIGUOUS)

    def take_low(self, size: int, name: str) -> Memory:
        """The same below 2^40."""
        return self._take(size, name, self._low, Physicality.ALLOW_NONCONTIGUOUS)

    def take_contiguous(self, size: int, name: str) -> Memory:
        """The same in one piece, for rings."""
        return self._take(size, name, self._low, Physicality.CONTIGUOUS)

    def take_host(self, size: int, name: str) -> Memory:
        """Pages of this process that the card reaches, zeroed, below 2^40."""
        reserved = round_up(max(size, 1), max(PAGE, mmap.PAGESIZE))
        try:
            pages = mmap.mmap(-1, reserved)
        except (OverflowError, OSError) as error:
            raise DoesNotFit(
                f"the host has no {human_bytes(size)} for {name}",
                cause="its memory is full, or limited for this process",
                next="use a smaller --context or a smaller model:  exosuit plan MODEL",
                wanted=size,
            ) from error
        handle = self._pin(pages, name)
        host = MappedMemory(memoryview(pages), ())
        return self._place(size, reserved, name, handle, self._low, host)

    def make_notifier(self) -> int:
        """Handle of a page of the kernel's own memory, where it notes why it stopped a channel."""
        params = MemoryParams.make(
            owner=self._client.client,
            kind=MemoryType.NOTIFIER,
            attributes=MemoryAttributes(location=Location.PCI),
            attributes2=MemoryAttributes2(zbc=1, gpu_cacheable=2),
            flags=_FLAGS,
            format=_FORMAT,
            size=PAGE,
            alignment=PAGE,
            limit=PAGE - 1,
        )
        device = self._gpu.objects.device
        return self._client.allocate(device, ObjectClass.MEMORY_SYSTEM, bytes(params))[0]

    def handle_of(self, memory: Memory) -> int:
        """The resource manager's handle of an allocation."""
        held = memory.owner
        assert isinstance(held, Held), memory.name
        return held.handle

    def channel_addresses(self) -> int:
        """Addresses for what a channel's engine keeps; they stay taken."""
        address = self._low.take(CHANNEL_ADDRESSES, LARGE_PAGE)
        assert address is not None, "there are 64 GiB of them"
        return address

    def give(self, memory: Memory) -> None:
        """Take back memory that nothing uses any more."""
        held = memory.owner
        assert isinstance(held, Held), memory.name
        del self._live[memory.address]
        self._space.unmap(memory.address, memory.reserved)
        self._client.free(held.handle)
        held.addresses.give(memory.address, memory.reserved + held.granule)

    def named(self) -> list[Named]:
        """Every buffer, by address."""
        found = [Named(m.name, m.address, m.size) for m in self._live.values()]
        return sorted(found, key=lambda buffer: buffer.address)

    def _take(self, size: int, name: str, addresses: Ranges, physicality: Physicality) -> Memory:
        granule, large = _granule(size), size >= LARGE_PAGE
        reserved = round_up(max(size, 1), granule)
        if reserved > self.local_bytes:
            raise self._full(size, name)
        params = MemoryParams.make(
            owner=self._client.client,
            kind=MemoryType.IMAGE,
            attributes=MemoryAttributes(
                physicality=physicality, page_size=PageSize.HUGE if large else PageSize.DEFAULT
            ),
            attributes2=MemoryAttributes2(zbc=1, gpu_cacheable=1, page_size_huge=1 if large else 0),
            flags=_FLAGS.replace(persistent_vidmem=True),
            format=_FORMAT,
            size=reserved,
            alignment=granule,
            limit=reserved - 1,
        )
        device = self._gpu.objects.device
        try:
            handle, _ = self._client.allocate(device, ObjectClass.MEMORY_LOCAL, bytes(params))
        except DoesNotFit as error:
            if error.fields.get("status") != Status.NO_MEMORY:
                raise
            raise self._full(size, name) from error
        return self._place(size, reserved, name, handle, addresses, None)

    def _place(
        self, size: int, reserved: int, name: str, handle: int, addresses: Ranges,
        host: MappedMemory | None,
    ) -> Memory:  # fmt: skip
        granule = _granule(reserved)
        address = addresses.take(reserved + granule, granule)
        if address is None:
            self._client.free(handle)
            raise DoesNotFit(
                f"no virtual addresses are left for {human_bytes(size)} for {name}",
                cause="so much is mapped already",
                next="use a smaller model",
            )
        try:
            self._space.map(handle, address, reserved)
        except ExosuitError:
            addresses.give(address, reserved + granule)
            self._client.free(handle)
            raise
        held = Held(handle, granule, addresses)
        memory = Memory(name, GpuAddress(address), size, reserved, host, held)
        self._live[address] = memory
        return memory

    def _pin(self, pages: mmap.mmap, name: str) -> int:
        """Lock pages of this process for the card; the handle of what it then is."""
        client, device = self._client, self._gpu.objects.device
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        record = RmAllocMemory.make(
            root=client.client,
            parent=device,
            new=next(self._pinned),
            class_id=ObjectClass.MEMORY_OS_DESCRIPTOR,
            flags=PinFlags(physicality=1, coherency=1, mapping=1),
            pages=address,
            limit=len(pages) - 1,
            fd=-1,
        )
        answer = client.escape(Escape.RM_ALLOC_MEMORY, record, self._gpu.fd)
        if answer.status:
            raise refusals.refused(
                f"pinning {human_bytes(len(pages))} of the host's memory for {name}", answer.status
            )
        client.adopt(answer.new, device)
        return answer.new

    def _full(self, size: int, name: str) -> DoesNotFit:
        free = self._gpu.memory_bytes(FbInfoIndex.HEAP_FREE)
        local = (m for m in self._live.values() if m.host is None)
        largest = sorted(local, key=lambda memory: -memory.reserved)[:3]
        holders = ", ".join(f"{m.name} {human_bytes(m.size)}" for m in largest)
        return DoesNotFit(
            f"{human_bytes(size)} for {name} do not fit; the card has {human_bytes(free)} free",
            cause=f"it had {human_bytes(self.local_bytes)} free for buffers when it was opened"
            + (f"; most is taken by {holders}" if holders else ""),
            next="use a smaller --context or a smaller model:  exosuit plan MODEL",
            wanted=size,
            free=free,
        )


def _granule(size: int) -> int:
    """Of addresses: UVM takes the largest pages that address, size and memory are multiples of."""
    return next(page for page in (LARGE_PAGE, BIG_PAGE, PAGE) if size >= page or page == PAGE)


_FLAGS = MemoryFlags(
    map_not_required=True,
    memory_handle_provided=True,
    alignment_force=True,
    ignore_bank_placement=True,
)
