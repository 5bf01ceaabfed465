"""One server for each user of this machine, and the private socket on which its own tools reach it.

The lock is that of cards (`link.lock`), so that it goes with its process however that ends. The
socket lies beside it with permissions for its user alone, which is why nobody has to show a key
there. A new server takes the socket's name over from an old one that is still finishing.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from exosuit.errors import CardBusy, PermissionNeeded, UsageError
from exosuit.link.lock import CardLock, Owner, owner_of
from exosuit.settings import Settings

NAME = "server"
_MOST_PATH_BYTES = 100
"""A socket's path has 104 bytes on a Mac, 108 on Linux."""


def lock_server(settings: Settings) -> CardLock:
    """The right to be the server; UsageError tells who is."""
    try:
        return CardLock.acquire(NAME, settings.state / "locks")
    except CardBusy as problem:
        owner: Owner | None = problem.fields["owner"]
        who = owner.describe() if owner else "another process"
        raise UsageError(
            f"a server is running already: {who}",
            cause="one process owns the devices; its models are for everybody",
            next="exosuit ps shows it, exosuit stop --server ends it, exosuit serve --restart"
            " replaces it without breaking answers",
            owner=owner,
        ) from problem


def server_owner(settings: Settings) -> Owner | None:
    """Who is the server right now."""
    return owner_of(NAME, settings.state / "locks")


def control_path(settings: Settings) -> Path:
    """Where the private socket lies; in the system's temporary folder if the path is too long."""
    path = settings.state / "server.sock"
    if len(os.fsencode(path)) <= _MOST_PATH_BYTES:
        return path
    digest = hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"exosuit-{os.getuid()}" / f"{digest}.sock"


@dataclass(frozen=True)
class PrivateSocket:
    """A listening socket at `path`, which may since belong to a server that took over."""

    socket: socket.socket
    path: Path
    inode: int

    def close(self) -> None:
        """Close it; the name goes too if it is still its own."""
        with suppress(OSError):
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()
        self.socket.close()


def listen_privately(settings: Settings) -> PrivateSocket:
    """A listening socket that only this user can reach, in place of one that was there before."""
    path = control_path(settings)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent != settings.state:
            _check_private(path.parent)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(fresh))
        finally:
            os.umask(before)
        listener.listen(64)
        inode = fresh.lstat().st_ino
        fresh.rename(path)
    except OSError as error:
        raise PermissionNeeded(
            f"the server's private socket cannot be made at {path}",
            cause=str(error),
            next=f"ls -ld {path.parent}   (it must be yours and writable)",
            path=str(path),
        ) from error
    return PrivateSocket(listener, path, inode)


def connect_privately(settings: Settings, timeout_s: float | None = None) -> socket.socket | None:
    """A connection to this user's server; None if there is none."""
    path = control_path(settings)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        if path.lstat().st_uid != os.getuid():
            raise ConnectionRefusedError
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _check_private(folder: Path) -> None:
    """In a folder that everybody may write to, somebody else may have been first."""
    found = folder.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if found.st_uid != os.getuid() or not is_private:
        raise PermissionError(f"{folder} is not a private folder of yours")
