"""`Graph`: launches in order, with the fences that their memory demands.

A program's parameters say what it reads and writes, so the graph knows which launches may run side
by side: a fence is placed before a launch that touches what an unfenced one before it wrote, or
writes what one read. Nobody places fences by hand, so nobody forgets one.
"""

from __future__ import annotations

from exosuit.driver.device import Argument, Device, Launch, Region, Replay
from exosuit.errors import ShapeMismatch
from exosuit.program import Program


class Graph:
    """Recorded once; `prepare` turns it into what the device replays."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self._read: list[Region] = []
        self._written: list[Region] = []

    def launch(self, program: Program, groups: int, *arguments: Argument) -> None:
        """Record `program` over `groups` workgroups; arguments in the order of its parameters."""
        if len(arguments) != len(program.parameters):
            raise ShapeMismatch(
                f"{program.name} takes {len(program.parameters)} arguments, not {len(arguments)}",
                cause="its parameters are: " + ", ".join(p.name for p in program.parameters),
                next="correct the recording",
            )
        reads: list[Region] = []
        writes: list[Region] = []
        for parameter, argument in zip(program.parameters, arguments, strict=True):
            if isinstance(argument, Region):
                if parameter.access.reads:
                    reads.append(argument)
                if parameter.access.writes:
                    writes.append(argument)
        fence = _any_overlap(reads, self._written) or _any_overlap(
            writes, self._written + self._read
        )
        if fence:
            self._read, self._written = [], []
        self._read += reads
        self._written += writes
        self.launches.append(Launch(program, groups, arguments, fence))

    def prepare(self, device: Device) -> Replay:
        return device.prepare(self.launches)


def _any_overlap(some: list[Region], others: list[Region]) -> bool:
    return any(a.overlaps(b) for a in some for b in others)
