"""Virtual time of the card's engines: what their work would take on the real part.

An engine's work follows its earlier work and the doorbell that asked for it. A doorbell is taken
to come after the host has seen the last result of every engine: one round trip over the link lies
between them. That is pessimistic for a host that queues ahead or lets engines work side by side.

The figures: vector lanes and memory bandwidth from the chip's data sheet at its game clock; what a
packet and a dispatch cost beyond their work is `assumed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from exosuit.silicon.amd.chips import Chip
from exosuit.softcard.timing import Meter

LANES_PER_UNIT = 64
PACKET_NS = 40.0
DISPATCH_NS = 1_500.0
CLOCK_TICK_NS = 10.0
"""The counter that timestamps show runs at 100 MHz."""


class Cost(Protocol):
    """What a dispatch did, as whoever runs programs counts it."""

    @property
    def lane_instructions(self) -> int: ...

    @property
    def memory_bytes(self) -> int: ...


@dataclass
class Timeline:
    """When one engine is done with what it has been given.

    engines  the timelines of all engines of the card, this one among them
    """

    meter: Meter
    engines: list[Timeline] = field(repr=False)
    now_ns: float = 0.0
    busy_ns: float = 0.0

    def begin(self) -> None:
        """A doorbell has come."""
        latest = max(engine.now_ns for engine in self.engines)
        self.now_ns = max(latest + self.meter.model.read_ns, self.meter.now_ns)

    def spend(self, ns: float) -> None:
        self.now_ns += ns
        self.busy_ns += ns

    def follow(self, other: Timeline) -> None:
        """What was waited for is another engine's work."""
        self.now_ns = max(self.now_ns, other.now_ns)

    def read_host(self, size: int) -> None:
        """The engine reads host memory over the link."""
        self.meter.dma_bytes_read += size
        self.spend(self.meter.model.dma_read_ns + size / self.meter.model.bandwidth * 1e9)

    def write_host(self, size: int) -> None:
        """The engine writes host memory, posted."""
        self.meter.dma_bytes_written += size
        self.spend(max(self.meter.model.write_ns, size / self.meter.model.bandwidth * 1e9))

    @property
    def ticks(self) -> int:
        """The card's clock at this point, as timestamps show it."""
        return int(self.now_ns / CLOCK_TICK_NS)


def dispatch_ns(chip: Chip, cost: Cost, clock_mhz: float, memory_share: float) -> float:
    """Time of one dispatch: the longer of its arithmetic and its memory traffic.

    clock_mhz     of the shaders
    memory_share  of the memory's full clock
    """
    lanes_per_ns = chip.compute_units * LANES_PER_UNIT * clock_mhz / 1e3
    bandwidth = chip.bandwidth * memory_share
    return DISPATCH_NS + max(
        cost.lane_instructions / lanes_per_ns, cost.memory_bytes / bandwidth * 1e9
    )
