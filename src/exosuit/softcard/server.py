"""A software card behind the wire protocol, over a UNIX socket or TCP, one client at a time.

One thread owns the card and everything else: it accepts, serves, and between requests lets the
engines look at memory again, since a client of the UNIX flavour writes shared memory without a
word. The peer is not trusted: every size is checked before it is believed, a message that stops
half-way ends the session after a deadline, and a second client is told who is being served.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import selectors
import socket
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from exosuit.errors import LinkError, UsageError
from exosuit.link import wire
from exosuit.link.function import PAGE, Closing
from exosuit.link.wire import Command
from exosuit.softcard.card import Refused, SoftCard
from exosuit.softcard.session import PeerGone, Session

log = logging.getLogger(__name__)

TICK_S = 0.001
"""How often engines that wait for host memory look again."""
MOST_GUESTS = 16
"""So many clients may wait to be told that they cannot be served."""
IDLE_S = 0.25
"""How often a server with nothing to do looks whether it should end."""


@dataclass(frozen=True)
class Address:
    """Where to listen: a UNIX path, or a host and port (0 lets the system choose)."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """`unix:PATH` or `tcp:HOST:PORT`. Raises UsageError."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=Path(rest))
        host, _, port = rest.rpartition(":")
        if kind == "tcp" and host and port.isdecimal() and int(port) < 65536:
            return cls(host=host.strip("[]"), port=int(port))
        raise UsageError(
            f"{text!r} is no address to listen at",
            cause="it is unix:PATH or tcp:HOST:PORT",
            next="exosuit softcard generic --listen tcp:127.0.0.1:6667",
            address=text,
        )

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.host}:{self.port}"


class Server(Closing):
    """Serves one card at one address until `stop` or `close`.

    stall_s  longest wait for the rest of a message that has begun
    """

    def __init__(self, card: SoftCard, address: Address, *, stall_s: float = 10.0) -> None:
        self.card = card
        self._stall_s = stall_s
        self._listener, self.address = _listen(address)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._session: Session | None = None
        self._guests: dict[socket.socket, float] = {}
        self._stopping = False
        self._closed = False

    def serve(self) -> None:
        """Serve clients, one after the other, until `stop`."""
        while not self._stopping:
            ready = self._selector.select(TICK_S if self.card.waiting else IDLE_S)
            # The session first: if it has ended, whoever waits may take its place.
            for key, _ in sorted(ready, key=lambda event: not self._is_session(event[0].fileobj)):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_read:
                    self._stopping = True
                elif self._session is not None and self._is_session(key.fileobj):
                    self._serve_some(self._session)
                else:
                    self._turn_away(key.fileobj)
            self._forget_silent_guests()
            if self.card.waiting:
                self.card.run()

    def stop(self) -> None:
        """Let `serve` return soon; may be called from another thread or a signal handler."""
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def close(self) -> None:
        """End the session and stop listening; the socket file is removed. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._end_session("the server ends")
        for guest in list(self._guests):
            self._dismiss(guest)
        self._selector.close()
        for stream in (self._listener, self._wake_read, self._wake_write):
            stream.close()
        if self.address.path is not None:
            self.address.path.unlink(missing_ok=True)

    def _is_session(self, stream: object) -> bool:
        return self._session is not None and stream is self._session.stream

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError:
            return
        with contextlib.suppress(OSError):  # it may be gone already; reading will tell
            if stream.family != socket.AF_UNIX:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                stream.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        self._selector.register(stream, selectors.EVENT_READ)
        if self._session is None:
            self._begin_session(stream)
        elif len(self._guests) >= MOST_GUESTS:
            self._selector.unregister(stream)
            stream.close()
        else:
            self._guests[stream] = time.monotonic() + self._stall_s

    def _begin_session(self, stream: socket.socket) -> None:
        self._session = Session(stream, describe_peer(stream), self._stall_s)
        log.info("%s: serving %s", self.card.name, self._session.peer)

    def _serve_some(self, session: Session) -> None:
        try:
            if not session.fill():
                self._end_session("it left")
                return
            serve_requests(self.card, session)
        except Refused as refused:
            self._end_session(refused.what)
        except PeerGone as gone:
            self._end_session(str(gone))

    def _turn_away(self, stream: object) -> None:
        """Answer a second client's first words with the name of the first."""
        if not isinstance(stream, socket.socket) or stream not in self._guests:
            return
        if self._session is None:  # the owner has left meanwhile
            del self._guests[stream]
            self._begin_session(stream)
            return
        text = f"{wire.BUSY_PREFIX}{self._session.peer}".encode()
        stream.setblocking(False)
        with contextlib.suppress(OSError):
            stream.recv(4096)
            stream.send(wire.RESPONSE.pack(wire.STATUS_ERROR, len(text), 0) + text)
            stream.shutdown(socket.SHUT_WR)
        self._dismiss(stream)

    def _forget_silent_guests(self) -> None:
        for stream, deadline in list(self._guests.items()):
            if time.monotonic() > deadline:
                self._dismiss(stream)

    def _dismiss(self, stream: socket.socket) -> None:
        del self._guests[stream]
        self._selector.unregister(stream)
        stream.close()

    def _end_session(self, reason: str) -> None:
        """The client is gone: its DMA memory goes, the card stays as it is."""
        if self._session is None:
            return
        log.info("%s: %s: %s", self.card.name, self._session.peer, reason)
        self._selector.unregister(self._session.stream)
        self._session.stream.close()
        self._session = None
        self.card.host.clear()
        self.card.transport_fault = None


def serve_requests(card: SoftCard, session: Session) -> None:
    """Answer what has arrived. Raises PeerGone or Refused to end the session."""
    while (request := session.next_request()) is not None:
        number, _, bar, arg0, arg1, arg2 = request
        try:
            command = Command(number)
        except ValueError:
            session.reply_error(f"there is no command {number}")
            continue
        try:
            _serve_one(card, session, command, bar, arg0, arg1, arg2)
        except Refused:
            raise
        except LinkError as error:
            session.reply_error(error.what)
        session.suffer(card)


def _serve_one(
    card: SoftCard, session: Session, command: Command, bar: int, arg0: int, arg1: int, arg2: int
) -> None:
    match command:
        case Command.MMIO_WRITE:
            _write_bar(card, session, bar, arg0, arg1)
        case Command.MMIO_READ:
            size = card.bar_size(bar)
            if arg1 > wire.BULK_LIMIT or arg0 + arg1 > size:
                session.reply_error(f"{arg1} bytes at {arg0:#x} lie outside BAR {bar}")
            else:
                session.reply(arg1, 0, card.read_bar(bar, arg0, arg1))
        case Command.CFG_READ:
            if arg1 not in (1, 2, 4):
                session.reply_error(f"configuration is read by 1, 2 or 4 bytes, not {arg1}")
            else:
                session.reply(card.read_config(arg0, arg1))
        case Command.CFG_WRITE:
            if arg1 not in (1, 2, 4):
                session.reply_error(f"configuration is written by 1, 2 or 4 bytes, not {arg1}")
            else:
                card.write_config(arg0, arg2 & ((1 << 8 * arg1) - 1), arg1)
                session.reply()
        case Command.MAP_BAR:
            if card.bar_size(bar) and not card.unplugged:
                session.reply(card.config.address(bar), card.bar_size(bar))
            else:
                session.reply_error(f"there is no BAR {bar}")
        case Command.RESIZE_BAR:
            if card.resize_bar(bar):
                session.reply()
            else:
                session.reply_error(f"BAR {bar} cannot be resized")
        case Command.RESET:
            card.reset()
            session.reply()
        case Command.PING:
            session.reply()
        case Command.PROBE:
            _probe(card, session, arg0, arg1, arg2)
        case Command.MAP_SYSMEM_FD:
            _map_shared(card, session, arg0, contiguous=bool(arg1))
        case Command.MAP_SYSMEM:
            _map_paged(card, session, arg0, contiguous=bool(arg1))
        case Command.SYSMEM_READ:
            mapping = card.host.mappings.get(bar)
            if mapping is None or arg0 + arg1 > mapping.size or arg1 > wire.BULK_LIMIT:
                session.reply_error(f"{arg1} bytes at {arg0:#x} lie outside mapping {bar}")
            else:
                session.reply(arg1, 0, mapping.view[arg0 : arg0 + arg1])
        case Command.SYSMEM_WRITE:
            mapping = card.host.mappings.get(bar)
            if mapping is None or arg0 + arg1 > mapping.size:
                session.skip(arg1)
                card.refuse(f"a write of {arg1} bytes at {arg0:#x} outside mapping {bar}")
            else:
                session.receive_into(mapping.view[arg0 : arg0 + arg1])
                card.run()


def _write_bar(card: SoftCard, session: Session, bar: int, offset: int, size: int) -> None:
    """Take a posted write: straight into memory where there is memory, else by way of a buffer."""
    if offset + size > card.bar_size(bar) or size > wire.BULK_LIMIT:
        session.skip(size)
        card.refuse(f"a write of {size} bytes at {offset:#x} outside BAR {bar}")
        return
    view = card.direct_view(bar, offset, size) if size > PAGE else None
    if view is None:
        card.write_bar(bar, offset, session.receive(size))
    elif card.begin_write(bar, size):
        session.receive_into(view)
    else:
        session.skip(size)


def _probe(card: SoftCard, session: Session, base_class: int, size: int, vendor: int) -> None:
    """List the card if it is of the vendor and class and matches a (mask, device) pair."""
    if size > PAGE or size % 8:
        raise PeerGone(f"it probes with {size} bytes of device ids")
    pairs = struct.iter_unpack("<II", session.receive(size))
    device = card.config.read(2, 2)
    matches = (
        any(device & mask == wanted for mask, wanted in pairs)
        and card.config.read(0, 2) == vendor
        and base_class in (0, card.config.read(0x0B, 1))
    )
    text = b"soft:0" if matches else b""
    session.reply(len(text), int(matches), text)


def _map_shared(card: SoftCard, session: Session, size: int, *, contiguous: bool) -> None:
    """UNIX flavour: a descriptor, and the segment list at the start of the memory."""
    if session.stream.family != socket.AF_UNIX:
        session.reply_error("descriptors pass over UNIX sockets only")
        return
    if len(card.host.mappings) >= wire.MAPPING_LIMIT:
        session.reply_error(f"all {wire.MAPPING_LIMIT} mappings of this session are used")
        return
    mapping = card.host.map(max(size, wire.SMALLEST_MAPPING), contiguous=contiguous)
    pairs = [(int(segment.address), segment.size) for segment in mapping.segments]
    listed = wire.pack_segments(pairs[: wire.SEGMENT_LIMIT])
    mapping.view[: len(listed)] = listed
    session.reply(mapping.size, mapping.handle, descriptor=mapping.descriptor)


def _map_paged(card: SoftCard, session: Session, size: int, *, contiguous: bool) -> None:
    """TCP flavour: a handle, and the bus address of every page."""
    if size > card.host.limit:
        session.reply_error(f"{size} bytes of DMA memory are too much")
        return
    mapping = card.host.map(size, contiguous=contiguous)
    pages = array.array("Q")
    for segment in mapping.segments:
        pages.extend(range(segment.address, segment.address + segment.size, PAGE))
    session.reply(8 * len(pages), mapping.handle, pages.tobytes())


def describe_peer(stream: socket.socket) -> str:
    """Who is at the other end: process and program over UNIX, host and port over TCP."""
    since = time.strftime("%H:%M:%S")
    if stream.family == socket.AF_UNIX:
        option = getattr(socket, "SO_PEERCRED", None)
        if option is None:
            return f"another process, since {since}"
        pid = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, option, 12))[0]
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]
        except OSError:
            words = []
        command = b" ".join(words).decode("utf-8", "replace")[:120]
        return f"process {pid} ({command}), since {since}"
    try:
        host, port = stream.getpeername()[:2]
    except OSError:
        return f"a client that has left, since {since}"
    return f"{host}:{port}, since {since}"


def _listen(address: Address) -> tuple[socket.socket, Address]:
    try:
        if address.path is not None:
            return _listen_unix(address.path), address
        listener = socket.create_server((address.host, address.port))
        port = listener.getsockname()[1]
        return listener, Address(host=address.host, port=port)
    except OSError as error:
        raise LinkError(
            f"the card cannot be served at {address}",
            cause=str(error),
            next="choose another address:  --listen tcp:127.0.0.1:0",
            address=str(address),
        ) from error


def _listen_unix(path: Path) -> socket.socket:
    """Listen at `path`, private to this user; a file that a dead server left is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
            else:
                raise FileExistsError(f"another server listens at {path}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener
