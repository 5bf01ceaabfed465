"""Who watches a long job. The terminal's bar is one of these, and so is nobody."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told how far a job of known or unknown length has come; bytes count from its start."""

    def start(self, label: str, total_bytes: int | None, done_bytes: int = 0) -> None: ...

    def update(self, done_bytes: int) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...


class Unwatched:
    """A `Progress` for when nobody looks."""

    def start(self, label: str, total_bytes: int | None, done_bytes: int = 0) -> None: ...

    def update(self, done_bytes: int) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...
