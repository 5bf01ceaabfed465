"""A download in a thread, watched from the event loop, and ended when the watcher leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from exosuit.models.pull_progress import Progress
from exosuit.serve.facts import PullProgress


class Left(Exception):
    """Nobody watches any more; unwinds the download, which keeps what has arrived."""


class _Watch:
    """A `Progress` whose news go to a queue of the loop."""

    def __init__(self, tell: Callable[[PullProgress], None]) -> None:
        self._tell = tell
        self._label, self._total = "", None
        self.has_left = False

    def start(self, label: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        self._label, self._total = label, total_bytes
        self.update(done_bytes)

    def update(self, done_bytes: int) -> None:
        if self.has_left:
            raise Left
        self._tell(PullProgress(self._label, done_bytes, self._total))

    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        self._tell(PullProgress(text, 0, None))


async def watched(work: Callable[[Progress], object]) -> AsyncIterator[PullProgress]:
    """What `work` tells of its progress; raises what it raises."""
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[PullProgress | None] = asyncio.Queue()
    problems: list[BaseException] = []

    def tell(progress: PullProgress | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(news.put_nowait, progress)

    watch = _Watch(tell)

    def run() -> None:
        try:
            work(watch)
        except BaseException as problem:
            problems.append(problem)
        finally:
            tell(None)

    threading.Thread(target=run, name="pull", daemon=True).start()
    try:
        while (progress := await news.get()) is not None:
            yield progress
    finally:
        watch.has_left = True
    if problems:
        raise problems[0]
