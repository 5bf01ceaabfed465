"""Host memory of one boot: what firmware reads there, and where it puts its queues and its logs.

Few and large mappings, given back together, and only once the card cannot reach memory any more.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp.c` (radix-3 lists, log buffers with their own
page lists in front), `message_queue_cpu.c`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from exosuit.link.function import PAGE, Data, DmaMemory, PciFunction
from exosuit.silicon.nvidia.gsp import (
    ARGUMENTS,
    LOG_BYTES,
    LOGS,
    QUEUE_BYTES,
    RADIX_ENTRIES,
    SIGNATURE_BYTES,
    GspArguments,
    LibosRegion,
    QueueArguments,
    RegionKind,
    RegionPlace,
    libos_id,
)
from exosuit.units import BusAddress, MiB, round_up

_CHUNK = 16 * MiB
"""Of the image, for which the links make one mapping each."""


class Pinned:
    """All host memory of one card's driver that the card may reach."""

    def __init__(self, link: PciFunction) -> None:
        self._link = link
        self._taken: list[DmaMemory] = []

    def take(self, size: int, *, contiguous: bool = False) -> DmaMemory:
        """Whole pages."""
        whole = round_up(size, PAGE)
        self._taken.append(self._link.allocate_dma(whole, contiguous=contiguous))
        return self._taken[-1]

    def put(self, data: bytes) -> DmaMemory:
        """Memory that is contiguous on the bus and holds `data`."""
        memory = self.take(len(data), contiguous=True)
        memory.write(0, data + bytes(-len(data) % 4))
        return memory

    def free(self) -> None:
        """Give everything back; idempotent. The card must not reach host memory any more."""
        while self._taken:
            self._taken.pop().free()

    @property
    def is_empty(self) -> bool:
        return not self._taken


def pages(memory: DmaMemory) -> list[BusAddress]:
    """Bus address of every page, in order."""
    found: list[BusAddress] = []
    left = round_up(memory.size, PAGE) // PAGE
    for segment in memory.segments:
        count = min(round_up(segment.size, PAGE) // PAGE, left)
        found += [BusAddress(segment.address + PAGE * index) for index in range(count)]
        left -= count
    assert left == 0, "DMA memory has fewer segments than bytes"
    return found


def place_image(pinned: Pinned, image: bytes) -> BusAddress:
    """The GSP's image with three levels of page lists; gives where the first page of them lies."""
    addresses: list[BusAddress] = []
    for at in range(0, len(image), _CHUNK):
        chunk = memoryview(image)[at : at + _CHUNK]
        memory = pinned.take(len(chunk))
        memory.write(0, bytes(chunk) + bytes(-len(chunk) % 4))
        addresses += pages(memory)
    counts = [len(addresses)]
    for _ in range(3):
        counts.insert(0, -(-counts[0] // RADIX_ENTRIES))
    counts.pop()
    lists = pinned.take(sum(counts) * PAGE)
    places = pages(lists)
    first = [sum(counts[:level]) for level in range(4)]
    below = [places[first[1] : first[2]], places[first[2] : first[3]], addresses]
    for level, entries in enumerate(below):
        lists.write(first[level] * PAGE, array("Q", entries).tobytes())
    return places[0]


@dataclass(frozen=True)
class Queues:
    """The block that is shared with the firmware: page list, command queue, status queue."""

    memory: DmaMemory
    command: int
    status: int
    page_count: int


def make_queues(pinned: Pinned) -> Queues:
    """The block, with its list of pages filled in."""
    queue_pages = 2 * QUEUE_BYTES // PAGE
    list_pages = -(-queue_pages * 8 // PAGE)
    memory = pinned.take((list_pages + queue_pages) * PAGE)
    memory.write(0, array("Q", pages(memory)).tobytes())
    command = list_pages * PAGE
    return Queues(memory, command, command + QUEUE_BYTES, list_pages + queue_pages)


class BootPages:
    """One block of pages that boot code is given the addresses of."""

    _META, _LIBOS, _ARGUMENTS, _FMC, _SIGNATURE, _COUNT = range(6)

    def __init__(self, pinned: Pinned, queues: Queues, signature: bytes) -> None:
        self._memory = pinned.take(self._COUNT * PAGE)
        self._logs = pinned.take(len(LOGS) * LOG_BYTES, contiguous=True)
        assert len(signature) <= SIGNATURE_BYTES == PAGE
        self._put(self._SIGNATURE, signature)
        arguments = GspArguments.make(
            queues=QueueArguments.make(
                shared_address=queues.memory.bus_address(),
                page_count=queues.page_count,
                command_offset=queues.command,
                status_offset=queues.status,
            ),
            dmem_stack=1,
        )
        self._put(self._ARGUMENTS, bytes(arguments))
        self._put(self._LIBOS, self._regions())

    @property
    def meta(self) -> BusAddress:
        return self._at(self._META)

    @property
    def libos(self) -> BusAddress:
        return self._at(self._LIBOS)

    @property
    def fmc(self) -> BusAddress:
        return self._at(self._FMC)

    @property
    def signature(self) -> BusAddress:
        return self._at(self._SIGNATURE)

    def put_meta(self, meta: bytes) -> None:
        self._put(self._META, meta)

    def put_fmc(self, parameters: bytes) -> None:
        self._put(self._FMC, parameters)

    def read_meta(self, size: int) -> bytes:
        return self._memory.read(self._META * PAGE, size)

    def read_logs(self) -> dict[str, bytes]:
        """What the firmware logged: per log its words up to where it put the last, undecoded.

        The words are NVIDIA's own binary records; `nvidia-bug-report` decodes them for NVIDIA.
        """
        found: dict[str, bytes] = {}
        for index, name in enumerate(LOGS):
            start = index * LOG_BYTES
            put = int.from_bytes(self._logs.read(start, 8), "little")
            head = 8 * (1 + LOG_BYTES // PAGE)
            used = min(8 * put, LOG_BYTES - head)
            if used:
                found[name] = self._logs.read(start + head, used)
        return found

    def _regions(self) -> bytes:
        """The libos arguments; every log begins with its put pointer and its list of pages."""
        found: list[bytes] = []
        for index, name in enumerate(LOGS):
            start = index * LOG_BYTES
            address = self._logs.bus_address(start)
            listed = array("Q", range(address, address + LOG_BYTES, PAGE))
            self._logs.write(start + 8, listed.tobytes())
            found.append(_region(name, address, LOG_BYTES))
        found.append(_region(ARGUMENTS, self._at(self._ARGUMENTS), PAGE))
        return b"".join(found)

    def _at(self, page: int) -> BusAddress:
        return self._memory.bus_address(page * PAGE)

    def _put(self, page: int, data: Data) -> None:
        self._memory.write(page * PAGE, bytes(data) + bytes(-len(data) % 4))


def _region(name: str, address: int, size: int) -> bytes:
    return bytes(
        LibosRegion.make(
            id=libos_id(name), address=address, size=size,
            kind=RegionKind.CONTIGUOUS, place=RegionPlace.SYSTEM,
        )
    )  # fmt: skip
