"""Waits are hardly longer than the work, ask now and then, and end when something has hung."""

from __future__ import annotations

import pytest

from exosuit.clock import ManualClock
from exosuit.driver.polling import SHARE, poll
from exosuit.errors import LinkLost


class Looks:
    """Work that is done `takes_s` after it began."""

    def __init__(self, takes_s: float) -> None:
        self.clock = ManualClock()
        self.takes_s = takes_s
        self.looks = 0
        self.asked_at: list[float] = []

    def reached(self) -> bool:
        self.looks += 1
        return self.clock.now() >= self.takes_s

    def ask(self) -> None:
        self.asked_at.append(self.clock.now())

    def poll(self) -> float | None:
        return poll(self.reached, self.clock, 20.0, self.ask, 2.0)


@pytest.mark.parametrize("takes_s", [0, 15e-6, 50e-6, 1e-3, 8e-3, 0.5, 19.0])
def test_a_wait_is_hardly_longer_than_the_work(takes_s: float):
    work = Looks(takes_s)
    assert work.poll() is None
    assert work.clock.now() <= takes_s * (1 + SHARE) + 20e-6
    assert work.looks < 50 + 400 + takes_s * 1000  # and does not keep the host busy


def test_it_asks_now_and_then():
    work = Looks(7.0)
    work.poll()
    assert [round(at) for at in work.asked_at] == [2, 4, 6]


def test_what_never_ends_is_given_up():
    work = Looks(1e9)
    waited_s = work.poll()
    assert waited_s is not None
    assert 20.0 <= waited_s < 20.002


def test_what_is_asked_may_end_it():
    work = Looks(1e9)

    def refuse() -> None:
        raise LinkLost("gone", cause="its cable", next="exosuit doctor")

    work.ask = refuse  # type: ignore[method-assign]
    with pytest.raises(LinkLost):
        work.poll()
