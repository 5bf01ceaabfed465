"""What goes wrong, when: a seeded schedule of faults, counted in accesses.

A schedule is written `unplug@1000+stall@20`, or as a number, which is the seed of one drawn at
random. The same schedule gives the same faults at the same accesses, on every machine.
"""

from __future__ import annotations

import random
from enum import Enum
from typing import Self

from exosuit.errors import UsageError

SPAN = 20_000
"""A seeded schedule places its faults in this many first accesses."""


class FaultKind(Enum):
    """One thing that really happens to cards."""

    UNPLUG = "unplug"
    """The cable is pulled: every read gives ones, every write is lost, DMA fails, for good."""
    ONES = "ones"
    """One read gives ones: a completion time-out."""
    HANG = "hang"
    """The engines stop answering until a reset."""
    DMA = "dma"
    """The next DMA access of the card is refused by the host: a page fault of the IOMMU."""
    SILENT = "silent"
    """Firmware never answers again, until a reset."""
    PAGE = "page"
    """The next address that the card translates is not mapped: what a wrong pointer causes."""
    PROGRAM = "program"
    """The next program stops at an instruction that is none."""
    TORN = "torn"
    """Only the first half of the next bulk write arrives."""
    CRASH = "crash"
    """NVIDIA: GSP firmware stops in the middle and leaves its last words in its log."""
    MAILBOX = "mailbox"
    """NVIDIA: the next piece of signed code that is started ends with an error."""
    RETRAIN = "retrain"
    """NVIDIA: the link begins to train anew and never ends, until a reset: BARs give ones."""
    POISON = "poison"
    """NVIDIA: WPR2 stays up over the next resets, until the power goes."""
    STALL = "stall"
    """The server stops in the middle of a reply and says nothing more."""
    DROP = "drop"
    """The server closes the connection."""


NVIDIA = (FaultKind.CRASH, FaultKind.MAILBOX, FaultKind.RETRAIN, FaultKind.POISON)
"""Kinds that no other card has."""
GENERAL = tuple(kind for kind in FaultKind if kind not in NVIDIA)


class FaultSchedule:
    """Faults by the number of the access before which they happen, counted from 1."""

    def __init__(self, faults: list[tuple[int, FaultKind]]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault[0])
        self.accesses = 0
        self._next = 0

    @classmethod
    def none(cls) -> Self:
        return cls([])

    @classmethod
    def seeded(cls, seed: int) -> Self:
        """One to three faults somewhere in the first `SPAN` accesses."""
        draw = random.Random(seed)
        kinds = draw.choices(GENERAL, k=draw.randint(1, 3))
        return cls([(draw.randint(1, SPAN), kind) for kind in kinds])

    @classmethod
    def parse(cls, text: str) -> Self:
        """`7`, or `unplug@1000+stall@20`; empty means none. Raises UsageError."""
        if not text:
            return cls.none()
        if text.isdecimal():
            return cls.seeded(int(text))
        faults: list[tuple[int, FaultKind]] = []
        for part in text.split("+"):
            kind, _, at = part.partition("@")
            try:
                faults.append((int(at), FaultKind(kind)))
            except ValueError as error:
                raise UsageError(
                    f"{part!r} is no fault",
                    cause=f"a fault is KIND@ACCESS with KIND one of"
                    f" {', '.join(kind.value for kind in FaultKind)}; or give one number, a seed",
                    next="exosuit softcard generic --faults unplug@1000",
                ) from error
        return cls(faults)

    def due(self) -> list[FaultKind]:
        """Count one access and give the faults that happen before it."""
        self.accesses += 1
        found: list[FaultKind] = []
        while self._next < len(self.faults) and self.faults[self._next][0] <= self.accesses:
            found.append(self.faults[self._next][1])
            self._next += 1
        return found

    def __str__(self) -> str:
        return "+".join(f"{kind.value}@{at}" for at, kind in self.faults) or "none"
