"""Polling memory that a card writes: at once while work is short, and hardly later when it is long.

The first looks follow each other; then every pause is a share of the time waited so far, so that a
wait is late by that share at most, and a long one costs the host next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.clock import Clock

SHARE = 1 / 64
_SPINS = 50
_SHORTEST_S, _LONGEST_S = 20e-6, 1e-3


def poll(
    reached: Callable[[], bool],
    clock: Clock,
    hang_s: float,
    ask: Callable[[], None],
    ask_every_s: float,
) -> float | None:
    """Return None when `reached` holds, or the seconds that were waited once `hang_s` have passed.

    ask  called every `ask_every_s` of waiting: what polled memory cannot tell; may raise
    """
    began = asked = clock.now()
    pause, spins = _SHORTEST_S, 0
    while not reached():
        spins += 1
        if spins < _SPINS:
            clock.sleep(0)
            continue
        clock.sleep(pause)
        now = clock.now()
        pause = min(max((now - began) * SHARE, _SHORTEST_S), _LONGEST_S)
        if now - asked >= ask_every_s:
            asked = now
            ask()
        if now - began >= hang_s:
            return now - began
    return None
