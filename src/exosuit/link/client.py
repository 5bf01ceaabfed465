"""The asking end of the wire protocol, and BARs that are reached through it.

One request is one `sendmsg`, since the app's server takes a request that arrives in pieces for a
broken one. Posted writes go out at once and wait for nothing. Every wait has a deadline; after any
failure the connection is closed and stays closed, so a half-read reply cannot be taken for another.
"""

from __future__ import annotations

import array
import os
import socket
import time
from typing import NoReturn

from exosuit.errors import CardBusy, HelperMissing, LinkError, LinkLost, ProtocolError
from exosuit.link import wire
from exosuit.link.function import Counters, Data, check_access, check_config
from exosuit.link.wire import Command

CHUNK = 16 << 20
"""Bulk transfers are cut into requests of this many bytes, well below the server's limit."""
SLOWEST = 1 << 20
"""Bytes per second below which a transfer counts as stalled."""


class Connection:
    """One connection to a server of the protocol, owned by one thread.

    peer       how errors call the other end, such as `the server at /tmp/tinygpu.sock`
    timeout_s  longest wait for a reply, on top of the time that its data may take
    """

    def __init__(self, stream: socket.socket, peer: str, timeout_s: float, device: int = 0) -> None:
        self._stream: socket.socket | None = stream
        self.peer = peer
        self.device = device
        self.timeout_s = timeout_s
        self.counters = Counters()
        self._descriptors: list[int] = []

    def ask(
        self,
        command: Command,
        bar: int = 0,
        arg0: int = 0,
        arg1: int = 0,
        arg2: int = 0,
        payload: bytes = b"",
    ) -> tuple[int, int]:
        """Send a request, wait for its reply, give its two results.

        Raises LinkLost if the peer is gone or stalls, CardBusy if another client has the card,
        LinkError with the peer's own words if it refuses.
        """
        self._send(wire.REQUEST.pack(command, self.device, bar, arg0, arg1, arg2), payload)
        self.counters.round_trips += 1
        reply = self.receive(wire.RESPONSE.size, command)
        status, first, second = wire.RESPONSE.unpack(reply)
        if status == wire.STATUS_GOOD:
            return first, second
        if status != wire.STATUS_ERROR or first > wire.TEXT_LIMIT:
            self._broken(f"its reply to {command.name} begins with {bytes(reply).hex()}")
        text = self.receive(first, command).decode("utf-8", "replace") if first else ""
        self._refused(command, text)

    def post(self, command: Command, bar: int, offset: int, data: Data) -> None:
        """Send a write; nothing comes back, and a refusal shows at the next `ask`."""
        head = wire.REQUEST.pack(command, self.device, bar, offset, len(data), 0)
        self._send(head, data)

    def receive(self, size: int, command: Command) -> bytearray:
        """Exactly `size` bytes of the reply to `command`."""
        data = bytearray(size)
        self.receive_into(memoryview(data), command)
        return data

    def receive_into(self, view: memoryview, command: Command) -> None:
        """The next bytes of the reply to `command`, as many as `view` holds."""
        size = len(view)
        deadline = time.monotonic() + self.timeout_s + size / SLOWEST
        room = 4 * array.array("i").itemsize
        while view:
            stream = self._open_stream()
            try:
                stream.settimeout(max(deadline - time.monotonic(), 1e-3))
                if stream.family == socket.AF_UNIX and size == wire.RESPONSE.size:
                    chunk, ancillary, _, _ = stream.recvmsg(len(view), socket.CMSG_SPACE(room))
                    count = len(chunk)
                    view[:count] = chunk
                    self._keep_descriptors(ancillary)
                else:
                    count = stream.recv_into(view)
            except TimeoutError as error:
                self._lost(f"did not answer {command.name} within {self.timeout_s:g} s", error)
            except OSError as error:
                self._lost(f"dropped the connection during {command.name}", error)
            if count == 0:
                self._lost(f"closed the connection during {command.name}", None)
            view = view[count:]

    def take_descriptor(self) -> int:
        """The file descriptor that came with the last reply; the caller owns it."""
        if not self._descriptors:
            self._broken("its reply to MAP_SYSMEM_FD carries no file descriptor")
        return self._descriptors.pop()

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _open_stream(self) -> socket.socket:
        if self._stream is None:
            raise LinkLost(
                f"the connection to {self.peer} is closed",
                cause="it was closed, or an earlier access failed",
                next="open the card again",
            )
        return self._stream

    def _send(self, head: bytes, payload: Data) -> None:
        stream = self._open_stream()
        try:
            stream.settimeout(self.timeout_s + len(payload) / SLOWEST)
            sent = stream.sendmsg([head, payload])
            if sent < len(head) + len(payload):
                rest = memoryview(payload)[max(sent - len(head), 0) :]
                stream.sendall(head[sent:])
                stream.sendall(rest)
        except TimeoutError as error:
            self._lost("stopped taking requests", error)
        except OSError as error:
            self._lost("is gone", error)

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                self._descriptors.extend(numbers)

    def _lost(self, happened: str, cause: Exception | None) -> NoReturn:
        self.close()
        raise LinkLost(
            f"{self.peer} {happened}",
            cause=f"it died, it is wedged, or it serves another client ({cause or 'end of file'})",
            next="exosuit doctor",
        ) from cause

    def _broken(self, detail: str) -> NoReturn:
        self.close()
        raise ProtocolError(
            f"{self.peer} does not speak the card protocol",
            cause=f"another program listens there: {detail}",
            next="exosuit list   (names the sockets that are cards)",
        )

    def _refused(self, command: Command, text: str) -> NoReturn:
        """Raise what the server's words mean; the connection stays usable unless it is refused."""
        text = one_line(text)
        if text.startswith(wire.BUSY_PREFIX):
            self.close()
            raise CardBusy(
                f"{self.peer} serves another client: {text.removeprefix(wire.BUSY_PREFIX)}",
                cause="a card belongs to one process at a time",
                next="wait for it, or see who has it:  exosuit list",
                owner=text.removeprefix(wire.BUSY_PREFIX),
            )
        if text.startswith("Driver not available"):
            self.close()
            raise HelperMissing(
                f"{self.peer} runs, but has no card",
                cause=f"it says: {text}",
                next="exosuit doctor",
            )
        raise LinkError(
            f"{self.peer} refused {command.name}" + (f": {text}" if text else ""),
            cause="the request is not possible on this card, or the server is of an older version",
            next="exosuit doctor",
            command=command.name,
            text=text,
        )


def one_line(text: str) -> str:
    """A peer's words as a part of one of our lines: printable, without breaks, not endless."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:300]


class WireRegion:
    """Bytes behind a connection: a BAR, or DMA memory over TCP. Every access is a request."""

    def __init__(
        self, connection: Connection, handle: int, size: int, title: str, read: Command
    ) -> None:
        self._connection = connection
        self._handle = handle
        self._title = title
        self._read = read
        self._write = Command(read + 1)
        self.size = size

    def read32(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))

    def write64(self, offset: int, value: int) -> None:
        check_access(self._title, self.size, offset, 8, 8)
        self.write(offset, value.to_bytes(8, "little"))

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, target: memoryview) -> None:
        check_access(self._title, self.size, offset, len(target))
        connection = self._connection
        for at in range(0, len(target), CHUNK):
            part = target[at : at + CHUNK]
            connection.counters.reads += 1
            connection.counters.bytes_read += len(part)
            told, _ = connection.ask(self._read, self._handle, offset + at, len(part))
            if told != len(part):
                connection.close()
                raise ProtocolError(
                    f"{connection.peer} answered {told} bytes where {len(part)} were asked for",
                    cause="the server and this client disagree about the protocol",
                    next="exosuit doctor",
                )
            connection.receive_into(part, self._read)

    def write(self, offset: int, data: Data) -> None:
        size = len(data)
        check_access(self._title, self.size, offset, size)
        counters = self._connection.counters
        view = memoryview(data)
        for at in range(0, size, CHUNK):
            part = view[at : at + CHUNK]
            counters.writes += 1
            counters.bytes_written += len(part)
            self._connection.post(self._write, self._handle, offset + at, part)


class WireBar(WireRegion):
    """A BAR behind a connection."""

    def __init__(self, connection: Connection, index: int, address: int, size: int) -> None:
        super().__init__(connection, index, size, f"BAR {index}", Command.MMIO_READ)
        self.index = index
        self.address = address


class WireFunction:
    """What both flavours share: configuration, BARs, reset, counters, and the lock."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self._connection = connection
        self._bars: dict[int, WireBar] = {}

    @property
    def counters(self) -> Counters:
        return self._connection.counters

    def read_config(self, offset: int, size: int) -> int:
        check_config(offset, size)
        value, _ = self._connection.ask(Command.CFG_READ, 0, offset, size)
        return value & ((1 << 8 * size) - 1)

    def write_config(self, offset: int, value: int, size: int) -> None:
        check_config(offset, size)
        self._connection.ask(Command.CFG_WRITE, 0, offset, size, value)

    def bar(self, index: int) -> WireBar:
        """The BAR, mapped at the server on first use. Raises LinkError if the card has none."""
        if index not in self._bars:
            address, size = self._connection.ask(Command.MAP_BAR, index)
            self._bars[index] = WireBar(self._connection, index, address, size)
        return self._bars[index]

    def resize_bar(self, index: int) -> int:
        """Ask for the largest size of a BAR and give the size that it has now, in bytes.

        TinyGPU.app accepts no such request; then the size simply stays.
        """
        self._bars.pop(index, None)
        try:
            self._connection.ask(Command.RESIZE_BAR, index)
        except LinkError as error:
            if "command" not in error.fields:
                raise
        return self.bar(index).size

    def reset(self) -> None:
        """Reset the function; BAR handles from before are stale."""
        self._connection.ask(Command.RESET)
        self._bars.clear()

    def is_alive(self) -> bool:
        """Whether the server answers at all; servers that do not know PING refuse it, and live."""
        try:
            self._connection.ask(Command.PING)
        except LinkError as error:
            if "command" not in error.fields:
                raise
        return True
