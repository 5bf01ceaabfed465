"""Waiting for the card, and finding out why it does not answer.

The host polls its own memory. Reports of faults lie there too, so a page fault or an illegal
instruction ends a wait at once. Only after a long silence is a register read, to tell a slow
program from a hung queue and from a card that is gone.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.clock import Clock
from exosuit.driver.amd.faults import Named, explain_hang, explain_reports
from exosuit.driver.amd.hubs import Hubs
from exosuit.driver.amd.ih import InterruptRing
from exosuit.driver.amd.registers import Registers
from exosuit.driver.amd.ring import Seen, SignalPage
from exosuit.driver.polling import poll
from exosuit.errors import ExosuitError

_LOOK_EVERY_S = 2.0


class Waiting:
    """Waits on the signals of one card.

    buffers  names and places of what is allocated, for the explanation of faults
    hang_s   a submission that takes longer has hung
    """

    def __init__(
        self,
        registers: Registers,
        hubs: Hubs,
        page: SignalPage,
        interrupts: InterruptRing,
        clock: Clock,
        buffers: Callable[[], list[Named]],
        hang_s: float,
    ) -> None:
        self._registers = registers
        self._hubs = hubs
        self._page = page
        self._interrupts = interrupts
        self._clock = clock
        self._buffers = buffers
        self.hang_s = hang_s
        self.problem: ExosuitError | None = None
        """Why the card cannot be used any more."""

    def until(self, reached: Callable[[Seen], bool], what: str) -> None:
        """Return when `reached` holds. Raises PageFault, CardHung, KernelError or LinkLost."""
        if self.problem is not None:
            raise self.problem
        try:
            self._poll(reached, what)
        except ExosuitError as error:
            self.problem = error
            raise

    def _poll(self, reached: Callable[[Seen], bool], what: str) -> None:
        def look() -> bool:
            seen = self._page.look()
            if self._interrupts.has_reports(seen.interrupts):
                self._read_reports()
            return reached(seen)

        waited_s = poll(look, self._clock, self.hang_s, self._look_closer, _LOOK_EVERY_S)
        if waited_s is not None:
            raise explain_hang(self._registers, what, waited_s)

    def _look_closer(self) -> None:
        """What the host's memory cannot tell: the link, and a fault without a report."""
        self._registers.check_alive()
        self._read_reports()
        fault = self._hubs.fault()
        if fault is not None:
            self._hubs.clear_fault()
            raise explain_reports([], fault, self._buffers()) or AssertionError

    def _read_reports(self) -> None:
        reports = self._interrupts.take()
        problem = explain_reports(reports, None, self._buffers())
        if problem is not None:
            raise problem
