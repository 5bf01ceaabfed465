"""The two message queues: records go to the firmware by one and come back by the other.

Each side writes one queue and keeps, in that queue's first page, how far it has read the other. A
record is put whole before the write pointer moves, and the pointer before the doorbell rings.

Sources: open-gpu-kernel-modules 570.144 `message_queue_cpu.c`, `msgq.c`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exosuit.driver.nvidia.bare_metal.host_memory import Queues
from exosuit.errors import BootFailed, CardHung
from exosuit.silicon.nvidia.gsp import (
    ELEMENT_BYTES,
    QUEUE_BYTES,
    QUEUE_ELEMENTS,
    READ_POINTER,
    QueueHeader,
)
from exosuit.silicon.nvidia.rpc import (
    MOST_ELEMENTS,
    MOST_PAYLOAD,
    PENDING,
    SIGNATURE,
    VERSION,
    Element,
    Record,
    checksum,
    elements,
)

_WRITE_POINTER = QueueHeader.SLOTS["write_pointer"].offset
_ENTRIES = ELEMENT_BYTES
"""Elements begin after the page with the headers."""


@dataclass(frozen=True)
class Message:
    """A record that the firmware sent."""

    function: int
    result: int
    payload: bytes


class MessageQueues:
    """Both queues, from the host's side.

    ring  tells the firmware that something was put
    """

    def __init__(self, queues: Queues, ring: Callable[[], None]) -> None:
        self._memory = queues.memory
        self._command = queues.command
        self._status = queues.status
        self._ring = ring
        self._put_at = 0
        self._taken_to = 0
        self._sequence = 0
        header = QueueHeader.make(
            size=QUEUE_BYTES, element_size=ELEMENT_BYTES, element_count=QUEUE_ELEMENTS, flags=1,
            read_offset=READ_POINTER, entry_offset=_ENTRIES,
        )  # fmt: skip
        self._memory.write(self._command, bytes(header))

    @property
    def is_ready(self) -> bool:
        """Whether the firmware has set up the queue that it writes."""
        return self._status_header().entry_offset == _ENTRIES

    def check_layout(self) -> None:
        """Raise BootFailed where the firmware laid its queue out otherwise than expected."""
        header = self._status_header()
        found = header.element_size, header.element_count, header.read_offset
        if found != (ELEMENT_BYTES, QUEUE_ELEMENTS, READ_POINTER):
            raise BootFailed(
                f"the firmware's queue has {header.element_count} elements of"
                f" {header.element_size} bytes",
                cause="it is of another release than exosuit knows",
                next="exosuit setup --yes",
                header=bytes(header).hex(),
            )

    def has_room(self, count: int) -> bool:
        """Whether `count` more elements fit: the firmware has read far enough."""
        read = self._memory.read32(self._status + READ_POINTER) % QUEUE_ELEMENTS
        return (read - self._put_at - 1) % QUEUE_ELEMENTS >= count

    def send(self, function: int, payload: bytes) -> None:
        """Put one record; the caller has waited for `has_room(MOST_ELEMENTS)`."""
        assert len(payload) <= MOST_PAYLOAD, function
        record = Record.make(
            version=VERSION, signature=SIGNATURE, length=Record.SIZE + len(payload),
            function=function, result=PENDING, private_result=PENDING,
        )  # fmt: skip
        count = elements(record.length)
        assert count <= MOST_ELEMENTS
        element = Element.make(sequence=self._sequence, count=count)
        element.checksum = checksum(bytes(element) + bytes(record) + payload)
        whole = bytes(element) + bytes(record) + payload
        whole += bytes(-len(whole) % 4)
        start = self._put_at * ELEMENT_BYTES
        first = min(len(whole), QUEUE_ELEMENTS * ELEMENT_BYTES - start)
        self._memory.write(self._command + _ENTRIES + start, whole[:first])
        if first < len(whole):
            self._memory.write(self._command + _ENTRIES, whole[first:])
        self._put_at = (self._put_at + count) % QUEUE_ELEMENTS
        self._sequence += 1
        self._memory.write32(self._command + _WRITE_POINTER, self._put_at)
        self._ring()

    def receive(self) -> Message | None:
        """The next record of the firmware, or None. Raises CardHung where it is damaged."""
        written = self._memory.read32(self._status + _WRITE_POINTER)
        if written == self._taken_to:
            return None
        head = self._read(0, Element.SIZE + Record.SIZE)
        element, record = Element(head), Record(head, Element.SIZE)
        count = element.count
        sane = (
            record.signature == SIGNATURE
            and record.length >= Record.SIZE
            and elements(record.length) <= count <= MOST_ELEMENTS
            and count <= (written - self._taken_to) % QUEUE_ELEMENTS
        )
        body = self._read(len(head), record.length - Record.SIZE) if sane else b""
        if not sane or checksum(head + body):
            raise CardHung(
                f"the firmware sent a damaged record ({head[:0x40].hex()})",
                cause="the link loses or changes data, or the firmware crashed",
                next="reconnect the enclosure and switch it off and on, then  exosuit doctor",
                record=head.hex(),
            )
        self._taken_to = (self._taken_to + count) % QUEUE_ELEMENTS
        self._memory.write32(self._command + READ_POINTER, self._taken_to)
        return Message(record.function, record.result, body)

    def _status_header(self) -> QueueHeader:
        return QueueHeader(self._memory.read(self._status, QueueHeader.SIZE))

    def _read(self, offset: int, size: int) -> bytes:
        """Bytes of the record at hand, which may wrap around the end of the queue."""
        room = QUEUE_ELEMENTS * ELEMENT_BYTES
        at = (self._taken_to * ELEMENT_BYTES + offset) % room
        padded = size + -size % 4
        first = min(padded, room - at)
        found = self._memory.read(self._status + _ENTRIES + at, first) if first else b""
        if first < padded:
            found += self._memory.read(self._status + _ENTRIES, padded - first)
        return found[:size]
