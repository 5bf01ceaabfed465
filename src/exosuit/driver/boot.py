"""A boot as a list of named steps: what is done, how it is known to have worked, how long it took.

Each `BootStep` has a name, a sentence for people, and a function. The runner marks the tape of a
recorder, measures, tells whoever shows progress, and makes sure that whatever goes wrong says in
which step. The wait for firmware has one home: `poll`, which knows the difference between a card
that is slow and one that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from exosuit.clock import Clock, wait_until
from exosuit.errors import BootFailed, ExosuitError
from exosuit.link.function import Counters
from exosuit.silicon.pci import ALL_ONES
from exosuit.units import human_seconds

V = TypeVar("V")


@dataclass(frozen=True)
class BootStep:
    """One step.

    why  a sentence for `--explain`: what this is for
    run  does it; raises CardError where it does not work
    """

    name: str
    why: str
    run: Callable[[], None]


@dataclass(frozen=True)
class StepReport:
    """What a step took: seconds, and what crossed the link."""

    name: str
    why: str
    seconds: float
    crossed: Counters


class Progress(Protocol):
    """Is told of each step before it begins."""

    def __call__(self, step: BootStep, index: int, count: int) -> None: ...


class Counted(Protocol):
    """A way to a card that counts what crosses it."""

    @property
    def counters(self) -> Counters: ...


class Marks(Protocol):
    """A link that keeps a tape, on which steps are marked."""

    def step(self, name: str) -> None: ...


def explain(reports: Sequence[StepReport]) -> list[str]:
    """A line for each step: what it was for, what it took."""
    return [
        f"{report.name:<12} {human_seconds(report.seconds):>8}"
        f"  {report.crossed.round_trips:>4} reads {report.crossed.writes:>4} writes  {report.why}"
        for report in reports
    ]


def silent(step: BootStep, index: int, count: int) -> None:
    """No progress is shown."""


def run_steps(
    steps: Sequence[BootStep],
    link: Counted,
    clock: Clock,
    progress: Progress = silent,
) -> list[StepReport]:
    """Run the steps in order. An ExosuitError of one gets its name as the field `step`."""
    reports: list[StepReport] = []
    mark: Callable[[str], None] = getattr(link, "step", _unmarked)
    for index, step in enumerate(steps):
        progress(step, index, len(steps))
        mark(step.name)
        began, before = clock.now(), link.counters.copy()
        try:
            step.run()
        except ExosuitError as error:
            error.fields.setdefault("step", step.name)
            error.fields.setdefault("step_why", step.why)
            raise
        seconds, crossed = clock.now() - began, link.counters.since(before)
        reports.append(StepReport(step.name, step.why, seconds, crossed))
    return reports


def _unmarked(name: str) -> None:
    """No tape."""


def poll(
    read: Callable[[], V],
    ready: Callable[[V], bool],
    clock: Clock,
    timeout_s: float,
    what: str,
    check_alive: Callable[[], None],
    poll_s: float = 1e-5,
) -> V:
    """Read until `ready`; the value that was.

    check_alive  called at a value of all ones, and after a failed wait; raises LinkLost where the
                 card is gone

    Raises BootFailed with what was last seen.
    """
    seen: list[V] = []

    def look() -> bool:
        seen[:] = [read()]
        if seen[0] == ALL_ONES:
            check_alive()
        return ready(seen[0])

    if wait_until(look, clock, timeout_s, poll_s):
        return seen[0]
    check_alive()
    raise BootFailed(
        f"the card did not finish: {what} (last seen {seen[0]!r}, after {timeout_s:g} s)",
        cause="its firmware hangs, or was left in a state that it cannot leave by itself",
        next="switch the enclosure off and on, then  exosuit doctor",
        waited_for=what,
        seen=int(seen[0]) if isinstance(seen[0], int) else repr(seen[0]),
        timeout_s=timeout_s,
    )
