"""The process: sockets, signals, draining, and handing over to a new one.

Two HTTP servers run on one loop: the front doors on TCP, the user's own tools on a private socket.
SIGTERM and SIGINT stop accepting and let answers end; a second one ends at once. SIGHUP starts a
new process on the same listening socket and drains this one when that one is ready, so no
connection is refused and no answer is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn

from exosuit.errors import ExosuitError, PermissionNeeded, UsageError
from exosuit.link.lock import CardLock
from exosuit.serve.control import Commands, control_app
from exosuit.serve.log import AccessLog
from exosuit.serve.owner import listen_privately, lock_server
from exosuit.serve.patience import PatientProtocol
from exosuit.serve.service import Service
from exosuit.settings import Settings

log = logging.getLogger(__name__)

READY_S = 60.0
_SWITCH_S = 0.0005
_LATE_S = 0.3
"""What a client that has just connected may take until its request is here."""


@dataclass(frozen=True)
class Options:
    """How the process listens and ends.

    words     the command line after `exosuit serve`, for a process that takes over
    preload   load the default model at once
    drain_s   how long answers may go on after SIGTERM
    inherit   a listening socket of the process that hands over; None to bind one
    ready     a pipe of that process, told when this one is ready
    """

    host: str
    port: int
    words: Sequence[str]
    preload: bool = False
    drain_s: float = 30.0
    inherit: int | None = None
    ready: int | None = None


class _Http(uvicorn.Server):
    """uvicorn without its own idea of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Running:
    """One server process, from its sockets to its end. `run` returns when it has ended.

    make_service, make_app  called on the loop
    told                    called with the address once requests are taken
    """

    def __init__(
        self,
        settings: Settings,
        options: Options,
        make_service: Callable[[], Service],
        make_app: Callable[[Service], Any],
        told: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._options = options
        self._make_service = make_service
        self._make_app = make_app
        self._told = told
        self._servers: list[_Http] = []
        self._drain_s = options.drain_s
        self._ending: asyncio.Task[None] | None = None

    def run(self) -> int:
        """Take the lock and the sockets, serve, drain; UsageError if somebody else serves."""
        takes_over = self._options.inherit is not None
        lock = None if takes_over else lock_server(self._settings)
        listener = listening(self._options)
        try:
            # Tokens come back from foreign calls many times a second; each waits for the
            # interpreter at most this long.
            sys.setswitchinterval(_SWITCH_S)
            asyncio.run(self._main(listener, lock))
        finally:
            listener.close()
        return 0

    async def _main(self, listener: socket.socket, lock: CardLock | None) -> None:
        private = listen_privately(self._settings)
        service = self._make_service()
        self._service = service
        front = self._http(AccessLog(self._make_app(service)), listener)
        control = self._http(
            control_app(service, Commands(self._stop, self._restart)), private.socket
        )
        self._listener = listener
        self._watch_signals()
        waiting = asyncio.ensure_future(self._lock_later(lock))
        tasks = [asyncio.ensure_future(server.serve([s])) for server, s in (front, control)]
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.01)
        self._announce(listener)
        preloading = asyncio.ensure_future(self._preload())
        await asyncio.gather(*tasks)
        await service.close(0)
        preloading.cancel()
        waiting.cancel()
        private.close()
        held = None if waiting.cancelled() or not waiting.done() else waiting.result()
        if held is not None:
            held.close()

    def _http(self, app: Any, listener: socket.socket) -> tuple[_Http, socket.socket]:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="off",
            timeout_keep_alive=75, http=PatientProtocol,
        )  # fmt: skip
        server = _Http(config)
        self._servers.append(server)
        return server, listener

    def _announce(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("serving", extra={"address": address, "pid": os.getpid()})
        self._told(address)
        if self._options.ready is not None:
            os.write(self._options.ready, b"1")
            os.close(self._options.ready)
        notify_systemd(f"READY=1\nMAINPID={os.getpid()}")

    async def _lock_later(self, lock: CardLock | None) -> CardLock:
        """The lock; a process that takes over gets it when the old one ends."""
        while lock is None:
            try:
                lock = lock_server(self._settings)
            except UsageError:
                await asyncio.sleep(0.2)
        return lock

    async def _preload(self) -> None:
        """The model that the server was started with, if any."""
        if not self._options.preload:
            return
        try:
            (await self._service.open("")).release()
        except ExosuitError as problem:
            log.error("not loaded", extra={"error": problem.what, "cause": problem.cause})

    # Ending -------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_restart)

    def _told_to_end(self) -> None:
        self._stop(0.0 if self._ending else self._options.drain_s)

    def _stop(self, drain_s: float) -> None:
        """Begin to end, or end sooner than was said before."""
        self._drain_s = drain_s
        if self._ending is None:
            notify_systemd("STOPPING=1")
            self._ending = asyncio.ensure_future(self._end())
        elif drain_s <= 0:
            for server in self._servers:
                server.force_exit = True

    async def _end(self) -> None:
        """Accept nothing new, finish what has begun, then let both servers stop."""
        log.info("ending", extra={"drain_s": self._drain_s})
        front, control = self._servers
        for acceptor in front.servers:
            acceptor.close()
        await asyncio.sleep(_LATE_S)
        front.config.timeout_graceful_shutdown = _whole(self._drain_s)
        control.config.timeout_graceful_shutdown = _whole(self._drain_s)
        front.should_exit = control.should_exit = True
        await self._service.drain(self._drain_s)

    # Handing over -------------------------------------------------------------------------

    def _told_to_restart(self) -> None:
        async def restart() -> None:
            try:
                await self._restart()
            except ExosuitError as problem:
                log.error("not restarted", extra={"error": problem.what, "cause": problem.cause})

        self._restarting = asyncio.ensure_future(restart())

    async def _restart(self) -> int:
        """Start the next process, and end this one when it is ready; its process id."""
        reading, writing = os.pipe()
        inherit = self._listener.fileno()
        words = [*self._options.words, "--inherit", str(inherit), "--ready", str(writing)]
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "exosuit", "serve", *words], pass_fds=(inherit, writing)
            )
        finally:
            os.close(writing)
        try:
            answer = await asyncio.wait_for(asyncio.to_thread(os.read, reading, 1), READY_S)
        except TimeoutError:
            answer = b""
        finally:
            os.close(reading)
        if answer != b"1":
            child.kill()
            raise ExosuitError(
                "the new server did not come up; the old one goes on",
                cause=f"it ended with status {child.wait()}; its messages are in the log",
                next="exosuit serve --help, with the options of the running one",
            )
        log.info("handed over", extra={"pid": child.pid})
        self._stop(self._options.drain_s)
        return child.pid


def listening(options: Options) -> socket.socket:
    """The listening socket: inherited, or bound now; what the system refuses in three lines."""
    if options.inherit is not None:
        return socket.socket(fileno=options.inherit)
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(512)
    except PermissionError as error:
        raise PermissionNeeded(
            f"port {options.port} may not be used",
            cause=str(error),
            next="exosuit serve --port 11434   (ports from 1024 on are free to use)",
        ) from error
    except OSError as error:
        raise UsageError(
            f"{options.host} port {options.port} cannot be listened on ({error.strerror})",
            cause="another program uses the port (Ollama's is 11434 too), or the address is not"
            " one of this machine",
            next=f"exosuit serve --port {options.port + 1}",
            port=options.port,
        ) from error
    return listener


def notify_systemd(state: str) -> None:
    """Tell systemd, if it started this (sd_notify(3)); else nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.sendall(state.encode())


def _whole(seconds: float) -> int:
    return max(0, round(seconds))
