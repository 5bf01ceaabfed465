"""Waiting for the card, and finding out why it does not answer.

The host polls one page of its own memory, in which every channel writes a number when its work is
done. Only after a while is the route asked whether something has gone wrong, because that may cost
reads from the card.
"""

from __future__ import annotations

from exosuit.driver.nvidia.route import PAGE, Memory, Route
from exosuit.driver.placed import HostMemory
from exosuit.driver.polling import poll
from exosuit.driver.timeline import has_passed
from exosuit.errors import CardHung, ExosuitError
from exosuit.units import GpuAddress, human_seconds

SIGNAL_BYTES = 16
"""Room of one signal; semaphores are aligned to it."""

_ASK_EVERY_S = 0.1


class Waiting:
    """The page of signals of one card, and all waiting on it."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._page: Memory = route.take_host(PAGE, "signals")
        assert self._page.host is not None
        self._host: HostMemory = self._page.host
        self.problem: ExosuitError | None = None
        """Why the card cannot be used any more."""

    def address(self, signal: int) -> GpuAddress:
        """Where the card writes a signal, by number."""
        return GpuAddress(self._page.address + SIGNAL_BYTES * signal)

    def until(self, signal: int, value: int, what: str) -> None:
        """Return when a signal has reached a value of its timeline.

        Raises what the route finds, or CardHung; then nothing can be waited for any more.
        """
        if self.problem is not None:
            raise self.problem
        try:
            self._poll(signal, value, what)
        except ExosuitError as error:
            self.problem = error
            raise

    def _poll(self, signal: int, value: int, what: str) -> None:
        route = self._route
        waited_s = poll(
            lambda: has_passed(self._look(signal), value),
            route.clock,
            route.hang_s,
            route.check,
            _ASK_EVERY_S,
        )
        if waited_s is not None:
            route.check()
            raise _hung(what, waited_s)

    def _look(self, signal: int) -> int:
        return int.from_bytes(self._host.read(SIGNAL_BYTES * signal, 4), "little")


def _hung(what: str, waited_s: float) -> CardHung:
    return CardHung(
        f"the card did not finish {what} within {human_seconds(waited_s)}",
        cause="a kernel runs for ever, or the channel does not move; the card reports no fault",
        next="run it again, the card is started afresh; if it stays:  exosuit doctor --report FILE",
        waited_s=waited_s,
    )
