"""What the work of an AMD card's engines takes on the real part, in virtual time.

Vector lanes and memory bandwidth are those of the chip's data sheet at its game clock; what a
packet and a dispatch cost beyond their work is `assumed`.
"""

from __future__ import annotations

from exosuit.silicon.amd.chips import Chip
from exosuit.softcard.timeline import Cost, Timeline

LANES_PER_UNIT = 64
PACKET_NS = 40.0
DISPATCH_NS = 1_500.0
CLOCK_TICK_NS = 10.0
"""The counter that timestamps show runs at 100 MHz."""


def ticks(timeline: Timeline) -> int:
    """The card's clock where an engine is, as timestamps show it."""
    return int(timeline.now_ns / CLOCK_TICK_NS)


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
