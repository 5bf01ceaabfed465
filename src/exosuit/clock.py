"""Time as an argument, so that a thirty-second firmware timeout is a microsecond test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Seconds since some fixed moment, and a way to let some pass."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The real one: monotonic seconds."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """Time that passes only when somebody sleeps, at once."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


def wait_until(
    ready: Callable[[], bool], clock: Clock, timeout_s: float, poll_s: float = 0.0
) -> bool:
    """Poll `ready` until it holds or `timeout_s` has passed; says which."""
    deadline = clock.now() + timeout_s
    while not ready():
        if clock.now() >= deadline:
            return False
        clock.sleep(poll_s)
    return True
