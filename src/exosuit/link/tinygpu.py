"""A card behind TinyGPU.app, or behind any server of its protocol on a UNIX socket.

DMA memory is shared memory: the server makes it and passes its descriptor, so the host's reads and
writes of it cost no request. The segment list lies at the start of the fresh mapping and is read
and wiped before anybody uses it.
"""

from __future__ import annotations

import mmap
import os
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from exosuit.errors import ExosuitError, HelperMissing, LinkLost, PermissionNeeded, ProtocolError
from exosuit.link import wire
from exosuit.link.client import Connection, WireFunction
from exosuit.link.function import Closing, Segment, cut, join
from exosuit.link.lock import CardLock
from exosuit.link.mapped import MappedMemory
from exosuit.link.slab import Slab, SlabAllocator
from exosuit.link.wire import Command
from exosuit.units import BusAddress, MiB

APP = Path("/Applications/TinyGPU.app/Contents/MacOS/TinyGPU")


def default_socket() -> Path:
    """Where tinygrad's client and ours expect the app's server: the user's temporary folder."""
    return Path(tempfile.gettempdir()) / "tinygpu.sock"


def lock_name(path: Path) -> str:
    """What the lock of the card behind a socket is called, whatever the user calls the card."""
    return f"tinygpu:{path.absolute()}"


class TinyGpuLink(WireFunction, Closing):
    """One card behind one UNIX socket; owns the connection and the lock."""

    def __init__(self, name: str, connection: Connection, lock: CardLock | None) -> None:
        super().__init__(name, connection)
        self._lock = lock
        self._slabs = SlabAllocator(self._map_slab)

    @classmethod
    def open(
        cls, path: Path, *, locks: Path | None = None, timeout_s: float = 10.0, name: str = ""
    ) -> Self:
        """Connect to the server at `path`, holding the card's lock in the folder `locks`.

        Raises CardBusy if another process holds it, HelperMissing if no server listens,
        PermissionNeeded, ProtocolError if something else listens, LinkLost if it is wedged. The
        lock is given up on every failure.
        """
        title = name or f"tinygpu:{path}"
        lock = CardLock.acquire(lock_name(path), locks) if locks else None
        try:
            connection = connect(path, timeout_s)
            try:
                link = cls(title, connection, lock)
                link.is_alive()
                return link
            except ExosuitError:
                connection.close()
                raise
        except ExosuitError:
            if lock:
                lock.close()
            raise

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> MappedMemory:
        """Zeroed shared memory out of few large mappings."""
        slab, offset = self._slabs.allocate(size, contiguous=contiguous)
        view = slab.view[offset : offset + size]
        view[:] = bytes(size)
        return MappedMemory(
            view,
            cut(slab.segments, offset, size),
            lambda: self._slabs.release(slab, offset, size),
        )

    @property
    def mappings(self) -> int:
        """How many of the app's 128 mappings this session has used."""
        return len(self._slabs.slabs)

    def close(self) -> None:
        """End the session and release the lock. Mapped views stay readable while they are held."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _map_slab(self, size: int) -> Slab:
        mapped, _ = self._connection.ask(Command.MAP_SYSMEM_FD, 0, size, 1)
        descriptor = self._connection.take_descriptor()
        try:
            there = os.fstat(descriptor).st_size
            if not size <= mapped <= min(size + MiB, there):
                raise OSError(f"{size} bytes asked for, {mapped} told, {there} there")
            view = memoryview(mmap.mmap(descriptor, mapped))
        except (OSError, ValueError) as error:
            self._connection.close()
            raise ProtocolError(
                f"{self._connection.peer} shared memory that cannot be used",
                cause=f"the server and this client disagree about the protocol ({error})",
                next="exosuit doctor",
            ) from error
        finally:
            os.close(descriptor)
        segments = [
            Segment(BusAddress(address), length)
            for address, length in wire.unpack_segments(view[: wire.SEGMENT_LIST])
        ]
        view[: wire.SEGMENT_LIST] = bytes(wire.SEGMENT_LIST)
        return Slab(view, join(segments))


def connect(path: Path, timeout_s: float) -> Connection:
    """A connection to the server at `path`."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(timeout_s)
    try:
        stream.connect(str(path))
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    except OSError as error:
        stream.close()
        raise _no_server(path, error) from error
    return Connection(stream, f"the server at {path}", timeout_s)


def _no_server(path: Path, error: OSError) -> ExosuitError:
    if isinstance(error, PermissionError):
        return PermissionNeeded(
            f"the card's socket {path} may not be opened",
            cause="it belongs to another user",
            next=f"ls -l {shlex.quote(str(path))}",
        )
    if isinstance(error, ConnectionRefusedError):
        return LinkLost(
            f"nobody listens at {path}",
            cause="the server that made the socket file is gone"
            if path.is_socket()
            else "it is a file, not a socket",
            next="start the server again; it replaces the stale file:  exosuit doctor",
            socket=str(path),
        )
    if isinstance(error, FileNotFoundError):
        return HelperMissing(
            f"there is no server at {path}",
            cause="TinyGPU.app's server is not running (the app itself is not the server)",
            next=f"exosuit doctor   or   exosuit softcard generic --listen unix:{path}",
            socket=str(path),
        )
    return LinkLost(f"no connection to {path}", cause=str(error), next="exosuit doctor")


class ServerProcess(Closing):
    """A server of the protocol that this process started: the app's, or a software card's."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: int) -> None:
        self.process = process
        self.path = path
        self._log: int | None = log

    @classmethod
    def start(
        cls, command: Sequence[str], path: Path, timeout_s: float = 10.0, pipe: bool = False
    ) -> Self:
        """Start `command` and wait until something listens at `path`.

        pipe  its standard input is a pipe that ends when this process does, however that ends

        Raises HelperMissing, with the last words of the program, if it cannot be started, ends, or
        does not listen in time; nothing is left running then.
        """
        log, scratch = tempfile.mkstemp(prefix="exosuit-server-")
        os.unlink(scratch)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            os.close(log)
            raise HelperMissing(
                f"{command[0]} cannot be started",
                cause=str(error),
                next="exosuit setup",
            ) from error
        server = cls(process, path, log)
        deadline = time.monotonic() + timeout_s
        while not _listens(path):
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                words = server.last_words()
                server.close()
                raise HelperMissing(
                    f"{Path(command[0]).name} {'ended' if ended else 'did not listen'} before"
                    f" {path} was ready",
                    cause=words or "it said nothing",
                    next="exosuit doctor",
                )
            time.sleep(0.02)
        return server

    def last_words(self) -> str:
        """The last line that the server wrote."""
        if self._log is None:
            return ""
        written = os.fstat(self._log).st_size
        tail = os.pread(self._log, 2000, max(written - 2000, 0))
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def abandon(self) -> None:
        """Let it live on without us."""
        if self._log is not None:
            os.close(self._log)
            self._log = None
        self.process.returncode = 0  # it is nobody's child to wait for

    def close(self) -> None:
        """Ask it to end, and end it if it does not; idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
