"""One process owns a card, and the next one can tell which.

The lock is `flock` on a file, so the kernel drops it when its owner dies, however it died; the
file's text only says who it was. Locks lie in one folder per user of this machine, given by the
caller.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from exosuit.errors import CardBusy, PermissionNeeded
from exosuit.link.function import Closing
from exosuit.units import human_seconds


@dataclass(frozen=True)
class Owner:
    """Who holds a card: process, command line, and since when (seconds since the epoch)."""

    pid: int
    command: str
    since: float

    def describe(self, now: float | None = None) -> str:
        age = max((time.time() if now is None else now) - self.since, 0.0)
        return f"process {self.pid} ({self.command}), for {human_seconds(age)}"


class CardLock(Closing):
    """The right to touch one card, held until `close`.

    Raises CardBusy, naming the owner, if another process holds it; PermissionNeeded if the folder
    cannot be written.
    """

    def __init__(self, name: str, file: int) -> None:
        self.name = name
        self._file: int | None = file

    @classmethod
    def acquire(cls, name: str, folder: Path) -> Self:
        path = _path(name, folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PermissionNeeded(
                f"the lock of {name} at {path} cannot be opened",
                cause=str(error),
                next=f"ls -ld {shlex.quote(str(folder))}   (it must be yours and writable)",
                path=str(path),
            ) from error
        for attempt in range(3):  # `owner_of` holds it for a moment; that is not an owner
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                owner = _read(file)
                if owner is None and attempt < 2:
                    time.sleep(0.01)
                    continue
                os.close(file)
                raise busy(name, owner) from error
        me = Owner(os.getpid(), command_line(), time.time())
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(asdict(me)).encode(), 0)
        return cls(name, file)

    def close(self) -> None:
        """Release the lock. The file stays: removing it would race with the next owner."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def owner_of(name: str, folder: Path) -> Owner | None:
    """Who holds a card right now, or None; touches neither the card nor the lock."""
    try:
        file = os.open(_path(name, folder), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(file) or Owner(0, "unknown", time.time())
    finally:
        os.close(file)
    return None


def busy(name: str, owner: Owner | None) -> CardBusy:
    """The error for a card that another process holds."""
    held = owner.describe() if owner else "another process"
    end = f"wait for it, or end it:  kill {owner.pid}" if owner else "wait for it"
    return CardBusy(
        f"{name} is in use by {held}",
        cause="a card belongs to one process at a time",
        next=end,
        owner=owner,
    )


def command_line() -> str:
    """This process as a person would recognise it: the program and its first words, no values."""
    words = [Path(sys.argv[0]).name or "python", *(x.partition("=")[0] for x in sys.argv[1:3])]
    return " ".join(words)[:120]


def _path(name: str, folder: Path) -> Path:
    return folder / (re.sub(r"[^A-Za-z0-9.:_-]", "_", name)[-120:] + ".lock")


def _read(file: int) -> Owner | None:
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return Owner(int(found["pid"]), str(found["command"]), float(found["since"]))
    except (ValueError, KeyError, TypeError):
        return None
