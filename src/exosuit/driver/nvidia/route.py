"""`Route`: the ways to an NVIDIA card, and all that the device above needs of one.

The kernel driver's ioctls and the bare card's firmware end in the same things: memory at GPU
virtual addresses, two channels that are scheduled, and a doorbell. What stands in memory and in
rings is the device's business and the same over both; where rings and USERD lie, who writes page
tables and what faults are called is the route's. Nothing here is called by two threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from exosuit.clock import Clock
from exosuit.driver.placed import Data, HostMemory
from exosuit.units import GpuAddress

LOW = 1 << 40
"""Rings, pushbuffers, QMDs and semaphores lie below this: GPFIFO entries hold 40 bits."""
PAGE = 4096
"""All memory begins at a multiple of this, and is mapped up to one."""


class Window(Protocol):
    """Bytes that the card looks at: part of a BAR, or of host memory. Writes are posted."""

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...

    def write(self, offset: int, data: Data) -> None: ...


@dataclass(frozen=True)
class Memory:
    """Memory of the card, or of the host, at a GPU virtual address.

    size      what was asked for; `reserved` is mapped, a multiple of PAGE
    host      how the host reaches it, or None for memory of the card
    owner     the route's own: whatever it needs to give the memory back
    """

    name: str
    address: GpuAddress
    size: int
    reserved: int
    host: HostMemory | None = None
    owner: object = None


@dataclass(frozen=True)
class Facts:
    """What a route found out about its card.

    chip             for people: "GA102", "NVIDIA H200"
    target           "sm_86": what programs are compiled for
    sm_version       as the card says it, 0x806 (silicon.nvidia.limits)
    compute_class, copy_class, gpfifo_class
                     chosen from the card's class list (silicon.nvidia.classes)
    sm_count         that are enabled
    gpcs, tpcs_per_gpc, sms_per_tpc, max_warps_per_sm
                     the architecture's most ("litter" values), by which scratch is reckoned
    vram_bytes       that buffers can have
    """

    chip: str
    target: str
    sm_version: int
    compute_class: int
    copy_class: int
    gpfifo_class: int
    sm_count: int
    gpcs: int
    tpcs_per_gpc: int
    sms_per_tpc: int
    max_warps_per_sm: int
    vram_bytes: int


@dataclass(frozen=True)
class Channel:
    """One channel, scheduled, with its engine object allocated and nothing pushed yet.

    engine_class  of the object on it: compute or copy
    ring          `entries` GPFIFO entries of eight bytes
    userd         the channel's control block (silicon.nvidia.channel): GP_PUT, GP_GET
    token         what the doorbell takes, complete (runlist and enable bits included)
    """

    name: str
    engine_class: int
    ring: Window
    entries: int
    userd: Window
    token: int


class Route(Protocol):
    """A card that is up."""

    @property
    def name(self) -> str:
        """As in `--device`."""
        ...

    @property
    def facts(self) -> Facts: ...

    @property
    def compute(self) -> Channel: ...

    @property
    def copy(self) -> Channel: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def hang_s(self) -> float:
        """A submission that takes longer has hung."""
        ...

    def take(self, size: int, name: str) -> Memory:
        """Memory of the card, not zeroed. Raises DoesNotFit, with what takes the room."""
        ...

    def take_low(self, size: int, name: str) -> Memory:
        """The same below `LOW`."""
        ...

    def take_host(self, size: int, name: str) -> Memory:
        """Host memory that the card reaches, below `LOW`, zeroed, coherent with the host."""
        ...

    def give(self, memory: Memory) -> None:
        """Take back memory that nothing uses any more, in any channel."""
        ...

    def flush(self) -> None:
        """Let the card know of all maps; before anything is submitted that uses them."""
        ...

    def ring_doorbell(self, token: int) -> None:
        """Tell the card that GP_PUT of a channel has changed: one posted 32-bit write.

        Ring and USERD were written before and must be visible to the card when this is: a route
        whose windows are write-combined fences here.
        """
        ...

    def check(self) -> None:
        """Raise what went wrong: a fault decoded, the link lost. Asked while waiting, now and then.

        May read from the card, so it is never called for a replay that is on time. After `hang_s`
        it is asked once more; what it does not explain then has hung.
        """
        ...

    def stop(self) -> None:
        """Stop both channels, give up the card and everything taken of it. Idempotent."""
        ...
