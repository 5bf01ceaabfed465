"""Ends a text before the first stop string, wherever token borders fall.

Text that may be the beginning of a stop string is held back until it is decided.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches the text of one answer; owned by whoever feeds it.

    The texts of all `feed` calls and of `flush`, joined, are the answer up to the stop string that
    is complete first (of several that end there, the one that begins first).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string"
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The text that is safe to show now; nothing more once a stop string was `found`."""
        if self.found is not None or not text:
            return ""
        before = len(self._held)
        self._held += text
        matches = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := self._held.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if matches:
            _, start, self.found = min(matches)
            shown, self._held = self._held[:start], ""
            return shown
        keep = self._undecided()
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return shown

    def flush(self) -> str:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        return held

    def _undecided(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:size])
            ),
            default=0,
        )
