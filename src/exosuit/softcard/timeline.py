"""Virtual time of a card's engines: when each is done with what it has been given.

An engine's work follows its earlier work and the doorbell that asked for it. A doorbell is taken
to come after the host has seen the last result of every engine: one round trip over the link lies
between them. That is pessimistic for a host that queues ahead or lets engines work side by side.

`Slice` is about the host's real time: how long engines may keep this process from its clients.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from exosuit.softcard.timing import Meter


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


class Slice:
    """How long engines may work before whoever drives the card is served again.

    Real engines work beside the bus; these take turns with it. Programs may take a second each to
    translate, and a client waits ten for an answer.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds
        self._end = 0.0

    def begin(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end
