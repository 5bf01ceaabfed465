"""Launches as one pushbuffer, whose entry in the ring and whose doorbell start all of them.

Launches between two fences form a level. Levels of one launch each are chained: the QMD of one
names the next, which the card schedules by itself when the grid has ended and its writes are
visible. That is the fence, and costs the front end nothing; a token is mostly such a chain. The
last QMD of a chain writes a semaphore in the card's memory that the channel waits for: whether a
wait for idle covers grids that QMDs have scheduled is not documented, and nobody relies on it.

A level of several launches is sent QMD by QMD, so that they run side by side, and followed by a
wait for idle. QMDs could be joined by dependence counters instead, but nobody outside NVIDIA is
known to have used those, and such levels are few. Every QMD forgets what its SMs have cached of
memory and of bank 0 before it begins, so a wait needs no invalidation beside it.

Nothing but the number in the release changes from replay to replay; what does change lies in the
card's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exosuit.driver.device import Launch
from exosuit.driver.nvidia.channels import release
from exosuit.driver.nvidia.launch import bank, grid
from exosuit.driver.nvidia.loader import Loaded
from exosuit.silicon.nvidia.compute import (
    QMD_SHIFT,
    Compute,
    InvalidateShaderCachesNoWfi,
    PcasAction,
)
from exosuit.silicon.nvidia.grid import Bank, Release, StructureSize
from exosuit.silicon.nvidia.push import (
    COMPUTE,
    HOST,
    Host,
    SemaphoreOperation,
    SemExecute,
    methods,
)
from exosuit.silicon.nvidia.qmd import ALIGNMENT, Qmd
from exosuit.units import GpuAddress, round_up

_ALL_CACHES = InvalidateShaderCachesNoWfi(instruction=True, global_data=True, constant=True)
_ACQUIRE = SemExecute(operation=SemaphoreOperation.ACQ_CIRC_GEQ)
_SIGNAL_SIZE = StructureSize.FOUR_WORDS  # as tinygrad has them: the number, and when it was written
BANK_ALIGNMENT = 256
SIGNAL_BYTES = 16


@dataclass(frozen=True)
class Chip:
    """What of a card descriptors depend on.

    sm            86 for sm_86
    sass_version  as QMDs have it
    qmd           their layout
    """

    sm: int
    sass_version: int
    qmd: type[Qmd]

    @property
    def stride(self) -> int:
        """Bytes from one QMD to the next."""
        return round_up(self.qmd.WIDTH // 8, ALIGNMENT)


@dataclass(frozen=True)
class Recorded:
    """What a graph becomes.

    descriptors  QMDs, banks and the semaphore of chains, for the address that they were made for
    packets      to be run
    """

    descriptors: bytes
    packets: bytes


def fenced(launches: Sequence[Launch]) -> list[Launch]:
    """Launches that do something, with the fences of those that do not."""
    found: list[Launch] = []
    fence = False
    for launch in launches:
        fence = fence or launch.fence
        if launch.groups > 0:
            found.append(replace(launch, fence=fence))
            fence = False
    return found


def descriptor_bytes(launches: Sequence[Launch], chip: Chip) -> int:
    """Room for what `record` makes of these launches."""
    banks = sum(round_up(len(bank(launch, chip.sm)), BANK_ALIGNMENT) for launch in launches)
    return chip.stride * len(launches) + banks + SIGNAL_BYTES


def record(
    launches: Sequence[Launch], loaded: Sequence[Loaded], chip: Chip, address: GpuAddress
) -> Recorded:
    """QMDs and banks for `address`, and the packets that start them.

    Raises KernelError for what an SM cannot hold.
    """
    banks = [bank(launch, chip.sm) for launch in launches]
    places: list[GpuAddress] = []
    place = address + chip.stride * len(launches)
    for data in banks:
        places.append(GpuAddress(place))
        place += round_up(len(data), BANK_ALIGNMENT)
    signal = GpuAddress(place)
    chained = _chained(launches)
    ends = _chain_ends(chained)
    descriptors = bytearray(signal + SIGNAL_BYTES - address)
    for index, launch in enumerate(launches):
        at = chip.stride * index
        made = grid(
            launch,
            loaded[index],
            chip.sm,
            chip.sass_version,
            Bank(places[index], len(banks[index]), invalidate=True),
            GpuAddress(address + at + chip.stride) if chained[index] else None,
            Release(signal, ends[index], _SIGNAL_SIZE) if index in ends else None,
        )
        encoded = chip.qmd.encode_grid(made)
        descriptors[at : at + len(encoded)] = encoded
        start = places[index] - address
        descriptors[start : start + len(banks[index])] = banks[index]
    packets = bytearray(begin())
    if ends:
        packets += release(signal, 0)
    for index, launch in enumerate(launches):
        if index and launch.fence and not chained[index - 1]:
            before = index - 1
            packets += await_signal(signal, ends[before]) if before in ends else await_idle()
        if not (index and chained[index - 1]):
            packets += start_grid(GpuAddress(address + chip.stride * index))
    last = len(launches) - 1
    if last in ends:
        packets += await_signal(signal, ends[last])
    return Recorded(bytes(descriptors), bytes(packets))


def begin() -> bytes:
    """Forget everything in caches: copies and the host have written since."""
    return methods(COMPUTE, Compute.INVALIDATE_SKED_CACHES, 0) + methods(
        COMPUTE, Compute.INVALIDATE_SHADER_CACHES_NO_WFI, _ALL_CACHES
    )


def start_grid(qmd: GpuAddress) -> bytes:
    """Schedule the grid whose QMD lies there."""
    return methods(COMPUTE, Compute.SEND_PCAS_A, qmd >> QMD_SHIFT) + methods(
        COMPUTE, Compute.SEND_SIGNALING_PCAS2_B, PcasAction.PREFETCH_SCHEDULE
    )


def await_idle() -> bytes:
    """Go on when all grids that were sent have ended."""
    return methods(COMPUTE, Compute.WAIT_FOR_IDLE, 0)


def await_signal(signal: GpuAddress, number: int) -> bytes:
    """Go on when 32 bits in memory have reached `number`."""
    low, high = signal & 0xFFFF_FFFF, signal >> 32
    return methods(HOST, Host.SEM_ADDR_LO, low, high, number, 0, _ACQUIRE)


def _chain_ends(chained: Sequence[bool]) -> dict[int, int]:
    """The last launches of chains, and the number that each writes."""
    ends = [k for k in range(1, len(chained)) if chained[k - 1] and not chained[k]]
    return {index: number for number, index in enumerate(ends, 1)}


def _chained(launches: Sequence[Launch]) -> list[bool]:
    """Whether the card itself goes on from each launch to the next.

    It does where a fence parts them and neither has another launch beside it.
    """
    count = len(launches)
    alone = [
        (index == 0 or launch.fence) and (index + 1 == count or launches[index + 1].fence)
        for index, launch in enumerate(launches)
    ]
    return [alone[k] and k + 1 < count and alone[k + 1] for k in range(count)]
