"""One large file over several connections: pieces of it, each resumed where it stopped.

Bytes lie in `TARGET.part` where they belong; beside it `TARGET.part.json` says which stretches are
there, of which URL and version. A stretch is noted after its bytes are on the disk, so whatever
ends the process costs at most what was not noted. Connections that a server refuses end; as long
as one is left, it does everything.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from exosuit.models.store import free_bytes
from exosuit.units import MiB

LARGE_BYTES = 64 * MiB
"""From here on several connections are worth it."""
CONNECTIONS = 4
SPARE_BYTES = 32 * MiB
"""Room that a download leaves to everybody else."""
_PIECE_BYTES = 32 * MiB
_NOTE_BYTES = 4 * MiB
_LOOK_S = 0.1

Span = tuple[int, int]
"""From a byte up to, but not including, another."""

Ask = Callable[[Span], Iterator[bytes]]
"""The bytes of a span as they come from the server, all of them or an exception."""


@dataclass
class Note:
    """What is known of a part.

    done  what is there: sorted, apart from each other; None for a part written from its start on
    """

    url: str = ""
    version: str = ""
    total: int = 0
    done: list[Span] | None = None

    @staticmethod
    def read(path: Path) -> Note:
        """An empty note where there is none that can be read: the part starts anew."""
        try:
            found = cast("dict[str, Any]", json.loads(path.read_bytes()))
            note = Note(str(found["url"]), str(found.get("version", "")))
            if found.get("done") is not None:
                note.total = int(found["total"])
                note.done = merged([(int(a), int(b)) for a, b in found["done"]])
                if note.done and not 0 <= note.done[0][0] <= note.done[-1][1] <= note.total:
                    return Note()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Note()
        return note

    def write(self, path: Path) -> None:
        """In place at once: a process that is killed leaves the old note or the new one."""
        words: dict[str, Any] = {"url": self.url, "version": self.version}
        if self.done is not None:
            words |= {"total": self.total, "done": self.done}
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(words))
        new.replace(path)

    @property
    def kept_bytes(self) -> int:
        return sum(end - start for start, end in self.done or ())


def merged(spans: list[Span]) -> list[Span]:
    """The same bytes in the fewest spans, sorted."""
    found: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def missing(done: list[Span], total: int) -> list[Span]:
    """What `done` leaves out of `total` bytes, in pieces for one connection each."""
    gaps: list[Span] = []
    at = 0
    for start, end in [*done, (total, total)]:
        gaps += [(a, min(a + _PIECE_BYTES, start)) for a in range(at, start, _PIECE_BYTES)]
        at = end
    return gaps


@dataclass
class Pieces:
    """A download by several threads. `run` returns when every byte is there."""

    part: Path
    note_path: Path
    note: Note
    ask: Ask
    _todo: list[Span] = field(default_factory=list[Span])
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _is_over: bool = False
    _problem: BaseException | None = None
    _arrived: int = 0

    def run(self, passing: type[Exception], watch: Callable[[int], None]) -> None:
        """Fetch what is missing; `watch` is told the bytes that are there, in this thread.

        passing  what ends one connection and not the others; raised when none is left
        Raises everything else at once. What has arrived is noted however it ends.
        """
        assert self.note.done is not None
        self._todo = missing(self.note.done, self.note.total)[::-1]
        self._arrived = self.note.kept_bytes
        with self.part.open("ab") as handle:
            handle.truncate(self.note.total)
        workers = [
            threading.Thread(target=self._work, args=(passing,), daemon=True)
            for _ in range(min(CONNECTIONS, len(self._todo)))
        ]
        try:
            for worker in workers:
                worker.start()
            while any(worker.is_alive() for worker in workers) and not self._stop.is_set():
                next((w for w in workers if w.is_alive()), workers[0]).join(_LOOK_S)
                watch(self._arrived)
        finally:
            self._stop.set()  # one that waits for the network writes nothing when it wakes up
            for worker in workers:
                worker.join(_LOOK_S)
            with self._guard:
                self._is_over = True
        if self._problem is not None and (
            not isinstance(self._problem, passing) or missing(self.note.done, self.note.total)
        ):
            raise self._problem

    def _work(self, passing: type[Exception]) -> None:
        try:
            with self.part.open("r+b") as handle:
                while not self._stop.is_set():
                    with self._guard:
                        if not self._todo:
                            return
                        span = self._todo.pop()
                    self._fetch(handle.fileno(), span)
        except passing as problem:
            self._problem = self._problem or problem
        except BaseException as problem:
            self._problem = problem
            self._stop.set()

    def _fetch(self, file: int, span: Span) -> None:
        """One piece; what did not arrive of it goes back."""
        at, end = span
        noted = at
        chunks = self.ask(span)
        try:
            for chunk in chunks:
                with self._guard:
                    if self._stop.is_set():
                        return
                    os.pwrite(file, chunk, at)
                    at += len(chunk)
                    self._arrived += len(chunk)
                if at - noted >= _NOTE_BYTES:
                    self._mark(file, (noted, at))
                    noted = at
        finally:
            if noted < at:
                self._mark(file, (noted, at))
            with self._guard:
                self._todo += [(at, end)] if at < end else []

    def _mark(self, file: int, span: Span) -> None:
        """The bytes are on the disk, then the note says so; ENOSPC if too little room is left.

        One that comes after `run` has ended is lost: the note may be somebody else's by then.
        """
        os.fsync(file)
        with self._guard:
            if self._is_over:
                return
            assert self.note.done is not None
            self.note.done = merged([*self.note.done, span])
            self.note.write(self.note_path)
        check_spare(self.part.parent)


def check_spare(folder: Path) -> None:
    """OSError (ENOSPC) when a download has left less room than it must."""
    if free_bytes(folder) < SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
