"""One client's connection: requests taken out of a large buffer, payloads received in place.

Tens of thousands of posted writes arrive back to back, so bytes are taken in as many as there are
and cut up here; a large payload goes straight from the socket to where it belongs.
"""

from __future__ import annotations

import array
import contextlib
import socket
import time

from exosuit.link import wire
from exosuit.link.function import Data
from exosuit.softcard.card import SoftCard
from exosuit.softcard.faults import FaultKind

BUFFER = 256 << 10
SLOWEST = 1 << 20
"""Bytes per second below which a message counts as stalled."""


class PeerGone(Exception):
    """The session is over: the peer left, stalled, or cannot be understood."""


class Session:
    """The serving end of one connection. `peer` says who is at the other."""

    def __init__(self, stream: socket.socket, peer: str, stall_s: float) -> None:
        self.stream = stream
        self.peer = peer
        self._stall_s = stall_s
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._muted = False

    def fill(self) -> bool:
        """Take what has arrived; False at the end of the connection. For a readable stream."""
        self._compact()
        self.stream.settimeout(self._stall_s)
        count = self._receive_some(self._view[self._end :])
        self._end += count
        return count > 0

    def next_request(self) -> tuple[int, int, int, int, int, int] | None:
        """The next request whose fixed part is here, or None if nothing more has arrived.

        A request that has begun must become whole within `stall_s`.
        """
        have = self._end - self._start
        if have == 0:
            return None
        if have < wire.REQUEST.size:
            self._compact()
            deadline = time.monotonic() + self._stall_s
            while self._end < wire.REQUEST.size:
                self._end += self._wait_for(self._view[self._end :], deadline)
        request = wire.REQUEST.unpack_from(self._buffer, self._start)
        self._start += wire.REQUEST.size
        return request

    def receive(self, size: int) -> bytes:
        """The next `size` bytes, a payload; `size` has been checked."""
        if self._end - self._start >= size:
            self._start += size
            return bytes(self._view[self._start - size : self._start])
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return bytes(data)

    def receive_into(self, target: memoryview) -> None:
        """The next bytes, as many as `target` holds, without a copy in between."""
        have = min(self._end - self._start, len(target))
        target[:have] = self._view[self._start : self._start + have]
        self._start += have
        deadline = time.monotonic() + self._stall_s + len(target) / SLOWEST
        while have < len(target):
            have += self._wait_for(target[have:], deadline)

    def skip(self, size: int) -> None:
        """Throw the next `size` bytes away, in bounded memory and time."""
        have = min(self._end - self._start, size)
        self._start += have
        size -= have
        if size > 16 * wire.BULK_LIMIT:
            raise PeerGone(f"it announced {size} bytes")
        waste = memoryview(bytearray(min(size, BUFFER)))
        deadline = time.monotonic() + self._stall_s + size / SLOWEST
        while size:
            size -= self._wait_for(waste[: min(size, BUFFER)], deadline)

    def reply(
        self, first: int = 0, second: int = 0, data: Data = b"", *, descriptor: int | None = None
    ) -> None:
        """Answer a request; a descriptor travels on the fixed part."""
        head = wire.RESPONSE.pack(wire.STATUS_GOOD, first, second)
        self._send(head, data, descriptor)

    def reply_error(self, text: str) -> None:
        """Refuse a request in words."""
        words = text.encode()[: wire.TEXT_LIMIT]
        self._send(wire.RESPONSE.pack(wire.STATUS_ERROR, len(words), 0), words, None)

    def suffer(self, card: SoftCard) -> None:
        """Carry out a fault of the transport that the card's schedule asks for."""
        kind, card.transport_fault = card.transport_fault, None
        if kind is FaultKind.DROP:
            raise PeerGone("dropped by the schedule of faults")
        if kind is FaultKind.STALL:
            self._muted = True
            with contextlib.suppress(OSError):
                self.stream.send(b"\0" * (wire.RESPONSE.size // 2))

    def _send(self, head: bytes, data: Data, descriptor: int | None) -> None:
        if self._muted:
            return
        ancillary = []
        if descriptor is not None:
            numbers = array.array("i", [descriptor])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        self.stream.settimeout(self._stall_s + len(data) / SLOWEST)
        try:
            if descriptor is not None:
                self.stream.sendmsg([head], ancillary)
            else:
                sent = self.stream.sendmsg([head, data])
                if sent < len(head) + len(data):
                    self.stream.sendall(head[sent:])
                    self.stream.sendall(memoryview(data)[max(sent - len(head), 0) :])
        except OSError as error:
            raise PeerGone(f"it does not take its answer ({error})") from error

    def _wait_for(self, target: memoryview, deadline: float) -> int:
        """Some bytes of a message that has begun."""
        self.stream.settimeout(max(deadline - time.monotonic(), 1e-3))
        count = self._receive_some(target)
        if count == 0:
            raise PeerGone("it left in the middle of a message")
        return count

    def _receive_some(self, target: memoryview) -> int:
        try:
            return self.stream.recv_into(target)
        except TimeoutError as error:
            raise PeerGone("it stalled in the middle of a message") from error
        except OSError as error:
            raise PeerGone(f"the connection broke ({error})") from error

    def _compact(self) -> None:
        """Move what is left to the start of the buffer."""
        left = self._end - self._start
        if self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
