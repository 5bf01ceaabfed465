"""The two message queues between host and GSP firmware, from the firmware's side.

They lie in host memory that comes in pieces; the firmware knows the pieces by the list at the start
of the block. A record that is not what it should be is noted and not obeyed: real firmware drops
what has a wrong checksum, and stops at a wrong sequence number.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.silicon.nvidia.gsp import (
    ELEMENT_BYTES,
    PAGE,
    QUEUE_BYTES,
    QUEUE_ELEMENTS,
    READ_POINTER,
    QueueArguments,
    QueueHeader,
)
from exosuit.silicon.nvidia.rpc import (
    MOST_ELEMENTS,
    MOST_PAYLOAD,
    PENDING,
    SIGNATURE,
    VERSION,
    Element,
    Function,
    Header,
    Record,
    checksum,
    elements,
)
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.registers import Refuse

MOST_PAGES = 4096
MOST_MESSAGE = 1 << 20
"""Bytes of a message with its continuations; `assumed`."""
_WRITE_POINTER = 0x10


class BadQueues(Exception):
    """What the host set up cannot be used."""


@dataclass(frozen=True)
class Message:
    """One request of the host, its continuations joined."""

    function: int
    payload: bytes
    sequence: int


class Queues:
    """Both queues of one boot. Raises BadQueues; HostFault wherever memory is touched.

    pages  bus addresses of the whole block
    """

    def __init__(self, bus: Bus, arguments: QueueArguments, refuse: Refuse) -> None:
        self._bus = bus
        self._refuse = refuse
        self.pages = self._read_pages(arguments)
        self._command = arguments.command_offset
        self._status = arguments.status_offset
        for offset in (self._command, self._status):
            if offset % PAGE or offset + QUEUE_BYTES > len(self.pages) * PAGE:
                raise BadQueues(f"a queue at {offset:#x} of {len(self.pages)} pages")
        header = QueueHeader(self._read(self._command, QueueHeader.SIZE))
        if (header.element_size, header.element_count) != (ELEMENT_BYTES, QUEUE_ELEMENTS):
            raise BadQueues(
                f"{header.element_count} elements of {header.element_size} bytes in the command"
                " queue"
            )
        if header.entry_offset != PAGE or header.read_offset != READ_POINTER or header.flags != 1:
            raise BadQueues("a command queue whose header is of another layout")
        self._taken = 0
        self._expected = 0
        self._written = 0
        self._sequence = 0
        self._backlog: list[bytes] = []
        self._write(
            self._status,
            bytes(
                QueueHeader.make(
                    size=QUEUE_BYTES, element_size=ELEMENT_BYTES, element_count=QUEUE_ELEMENTS,
                    flags=1, read_offset=READ_POINTER, entry_offset=PAGE,
                )
            ),
        )  # fmt: skip

    def receive(self) -> Message | None:
        """The next request, or None if there is none, or not all of it."""
        first = self._take()
        while first is not None and first.function == Function.CONTINUATION_RECORD:
            self._refuse("a continuation of nothing in the command queue")
            first = self._take()
        if first is None:
            return None
        payload = first.payload
        while len(payload) % MOST_PAYLOAD == 0 and payload and self._continues():
            more = self._take()
            if more is None:
                break
            payload += more.payload
        return Message(first.function, payload, first.sequence)

    def send(self, function: int, payload: bytes, result: int = 0, sequence: int = 0) -> None:
        """Tell the host something; what does not fit waits until the host has read."""
        for at in range(0, max(len(payload), 1), MOST_PAYLOAD):
            part = payload[at : at + MOST_PAYLOAD]
            record = Record.make(
                version=VERSION, signature=SIGNATURE, length=Record.SIZE + len(part),
                function=Function.CONTINUATION_RECORD if at else function, result=result,
                private_result=result, sequence=sequence,
            )  # fmt: skip
            count = elements(record.length)
            message = bytearray(Element.SIZE) + bytes(record) + part
            Element(message).assign(sequence=self._sequence, count=count)
            Element(message).checksum = checksum(message)
            self._sequence += 1
            self._backlog.append(bytes(message.ljust(count * ELEMENT_BYTES, b"\0")))
        self.flush()

    def flush(self) -> None:
        """Put into the status queue what fits."""
        while self._backlog:
            message = self._backlog[0]
            count = len(message) // ELEMENT_BYTES
            read = self._word(self._command + READ_POINTER)
            if read >= QUEUE_ELEMENTS:
                self._refuse(f"a read pointer of {read} for a queue of {QUEUE_ELEMENTS}")
                return
            if count > (read - self._written - 1) % QUEUE_ELEMENTS:
                return
            for index in range(count):
                at = (self._written + index) % QUEUE_ELEMENTS
                piece = message[index * ELEMENT_BYTES : (index + 1) * ELEMENT_BYTES]
                self._write(self._status + PAGE + at * ELEMENT_BYTES, piece)
            self._written = (self._written + count) % QUEUE_ELEMENTS
            self._put(self._status + _WRITE_POINTER, self._written)
            del self._backlog[0]

    @property
    def is_waiting(self) -> bool:
        """Whether something waits for room."""
        return bool(self._backlog)

    # The command queue.

    def _continues(self) -> bool:
        """Whether what comes next belongs to what came last."""
        if self._word(self._command + _WRITE_POINTER) == self._taken:
            return False
        at = self._command + PAGE + self._taken * ELEMENT_BYTES
        header = Header(self._read(at, Header.SIZE))
        return header.record.function == Function.CONTINUATION_RECORD

    def _take(self) -> Message | None:
        """One record, or None if the host has written none."""
        written = self._word(self._command + _WRITE_POINTER)
        if written == self._taken:
            return None
        if written >= QUEUE_ELEMENTS:
            self._refuse(f"a write pointer of {written} in a queue of {QUEUE_ELEMENTS} elements")
            return None
        at = self._command + PAGE + self._taken * ELEMENT_BYTES
        header = Header(self._read(at, Header.SIZE))
        count, length = header.element.count, header.record.length
        available = (written - self._taken) % QUEUE_ELEMENTS
        if not 1 <= count <= MOST_ELEMENTS or count > available or length < Record.SIZE:
            self._refuse(f"a message of {count} elements, {length} bytes, of {available} written")
            self._acknowledge(written)
            return None
        if count != elements(length):
            self._refuse(f"{count} elements for a record of {length} bytes")
        message = b"".join(
            self._read(
                self._command + PAGE + (self._taken + k) % QUEUE_ELEMENTS * ELEMENT_BYTES,
                ELEMENT_BYTES,
            )
            for k in range(count)
        )[: Element.SIZE + length]
        self._acknowledge((self._taken + count) % QUEUE_ELEMENTS)
        why = self._why_bad(message)
        if why:
            self._refuse(f"a message in the command queue {why}")
            return self._take()
        record = Record(message, Element.SIZE)
        return Message(record.function, message[Header.SIZE :], record.sequence)

    def _why_bad(self, message: bytes) -> str:
        element, record = Element(message), Record(message, Element.SIZE)
        expected = self._expected
        self._expected += 1
        if len(message) < Element.SIZE + record.length:
            return f"with {record.length} bytes in {element.count} elements"
        if checksum(message):
            return "with a wrong checksum"
        if element.sequence != expected:
            return f"with sequence number {element.sequence}, not {expected}"
        if record.signature != SIGNATURE or record.version != VERSION:
            return f"of version {record.version:#x} with signature {record.signature:#x}"
        if record.result != PENDING:
            return f"that has result {record.result:#x} already"
        return ""

    def _acknowledge(self, pointer: int) -> None:
        self._taken = pointer
        self._put(self._status + READ_POINTER, pointer)

    # Memory.

    def _read_pages(self, arguments: QueueArguments) -> list[int]:
        count = arguments.page_count
        if not 1 <= count <= MOST_PAGES or arguments.shared_address % PAGE:
            raise BadQueues(f"a list of {count} pages at {arguments.shared_address:#x}")
        pages: list[int] = [arguments.shared_address]
        for first in range(0, count, PAGE // 8):
            # The list lies in the block that it describes.
            if first // (PAGE // 8) >= len(pages):
                raise BadQueues("a list of pages that is not in itself")
            size = min(count - first, PAGE // 8) * 8
            found = memoryview(self._bus.read(pages[first // (PAGE // 8)], size)).cast("Q")
            if first == 0:
                if found[0] != arguments.shared_address:
                    raise BadQueues("a list of pages whose first is not its own")
                pages = []
            pages.extend(found)
        if any(page % PAGE for page in pages):
            raise BadQueues("pages that are not aligned")
        return pages

    def _read(self, offset: int, size: int) -> bytes:
        found = bytearray()
        while size:
            length = min(size, PAGE - offset % PAGE)
            found += self._bus.read(self.pages[offset // PAGE] + offset % PAGE, length)
            offset, size = offset + length, size - length
        return bytes(found)

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            length = min(len(view), PAGE - offset % PAGE)
            self._bus.write(self.pages[offset // PAGE] + offset % PAGE, view[:length])
            offset, view = offset + length, view[length:]

    def _word(self, offset: int) -> int:
        return int.from_bytes(self._read(offset, 4), "little")

    def _put(self, offset: int, value: int) -> None:
        self._write(offset, value.to_bytes(4, "little"))
