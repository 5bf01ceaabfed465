"""A card behind the wire protocol over TCP: another computer's, or a software card.

Every access, DMA memory included, is a request; writes are posted and pipelined without bound, so
a burst of them costs one trip, not one each.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from exosuit.errors import ExosuitError, LinkError, LinkLost, ProtocolError
from exosuit.link import wire
from exosuit.link.client import Connection, WireFunction, WireRegion
from exosuit.link.function import PAGE, Closing, Segment, join, locate
from exosuit.link.lock import CardLock
from exosuit.link.wire import Command
from exosuit.units import BusAddress, round_up

ANY_DEVICE = ((0, 0),)
"""The (mask, value) pair that every device id matches."""


class RemoteMemory(WireRegion):
    """DMA memory at the server; every access is a request."""

    def __init__(
        self, connection: Connection, handle: int, size: int, segments: Sequence[Segment]
    ) -> None:
        super().__init__(connection, handle, size, "DMA memory", Command.SYSMEM_READ)
        self.segments = tuple(segments)
        self.view: memoryview | None = None

    def bus_address(self, offset: int = 0) -> BusAddress:
        return locate(self.segments, offset)

    def free(self) -> None:
        """The protocol cannot unmap: the server frees it when the session ends."""


class RemoteLink(WireFunction, Closing):
    """One card behind one TCP connection; owns the connection and the lock."""

    def __init__(self, name: str, connection: Connection, lock: CardLock | None) -> None:
        super().__init__(name, connection)
        self._lock = lock

    @classmethod
    def open(
        cls,
        host: str,
        port: int = wire.DEFAULT_PORT,
        *,
        device: int = 0,
        locks: Path | None = None,
        timeout_s: float = 10.0,
    ) -> Self:
        """Connect to card number `device` of the server at `host`:`port`.

        Raises CardBusy, LinkLost, ProtocolError; the lock is given up on every failure.
        """
        title = f"remote:{host}:{port}" + (f":{device}" if device else "")
        lock = CardLock.acquire(title, locks) if locks else None
        try:
            connection = connect(host, port, timeout_s, device)
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

    def probe(
        self,
        vendor: int,
        devices: Sequence[tuple[int, int]] = ANY_DEVICE,
        base_class: int = 0,
    ) -> list[str]:
        """Names of the server's functions of a vendor whose id matches a (mask, value) pair."""
        payload = array.array("I", [number for pair in devices for number in pair]).tobytes()
        size, _ = self._connection.ask(
            Command.PROBE, 0, base_class, len(payload), vendor, payload=payload
        )
        if size > wire.TEXT_LIMIT:
            self.close()
            raise ProtocolError(
                f"{self._connection.peer} announced a listing of {size} bytes",
                cause="the server and this client disagree about the protocol",
                next="exosuit doctor",
            )
        text = self._connection.receive(size, Command.PROBE).decode("utf-8", "replace")
        return [line for line in text.split("\n") if line]

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> RemoteMemory:
        """Zeroed memory at the server."""
        size = max(size, 1)
        told, handle = self._connection.ask(Command.MAP_SYSMEM, 0, size, int(contiguous))
        pages = round_up(size, PAGE) // PAGE
        if told != 8 * pages:
            self._connection.close()
            raise ProtocolError(
                f"{self._connection.peer} gave {told // 8} page addresses for {pages} pages",
                cause="the server and this client disagree about the protocol",
                next="exosuit doctor",
            )
        addresses = array.array("Q")
        addresses.frombytes(self._connection.receive(told, Command.MAP_SYSMEM))
        segments = join([Segment(BusAddress(address), PAGE) for address in addresses])
        if contiguous and len(segments) > 1:
            raise LinkError(
                f"the server gave {len(segments)} pieces where contiguous memory was asked for",
                cause="its memory is fragmented",
                next="restart the server's computer",
            )
        return RemoteMemory(self._connection, handle, size, segments)

    def close(self) -> None:
        """End the session and release the lock; idempotent."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def connect(host: str, port: int, timeout_s: float, device: int) -> Connection:
    """A connection to the server at `host`:`port`, without Nagle's delay."""
    peer = f"the server at {host}:{port}"
    try:
        stream = socket.create_connection((host, port), timeout=timeout_s)
    except OSError as error:
        raise LinkLost(
            f"{peer} cannot be reached",
            cause=str(error),
            next=f"start it there:  exosuit softcard generic --listen tcp:0.0.0.0:{port}",
        ) from error
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        stream.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    return Connection(stream, peer, timeout_s, device)
