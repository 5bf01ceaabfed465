"""What a command processor and a copy engine have in common: a ring, and packets that may wait.

Packets are taken apart once and kept by their bytes: a graph that is replayed costs no decoding.
An engine obeys until the ring is empty, a packet waits, or it cannot go on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from exosuit.datasheet import Packet, UnknownPacket

P = TypeVar("P", bound=Packet)

KEPT_STREAMS = 256
MOST_NESTING = 4
"""Buffers within buffers; a chain that never ends is cut off by MOST_PACKETS."""
MOST_PACKETS = 1_000_000


class Outcome(Enum):
    """How obeying a packet ended."""

    DONE = "done"
    WAITING = "waiting"
    """Its condition does not hold yet; it is tried again."""
    PAUSED = "paused"
    """The engine has worked long enough for now; it goes on when the card runs again."""
    STUCK = "stuck"
    """The engine stops until a reset."""


class Decoded(Generic[P]):
    """Streams of packets by their bytes, the least recently used forgotten first."""

    def __init__(self, family: type[P]) -> None:
        self._family = family
        self._kept: OrderedDict[bytes, tuple[P | UnknownPacket, ...]] = OrderedDict()

    def __call__(self, stream: bytes) -> tuple[P | UnknownPacket, ...]:
        """The packets of a stream."""
        found = self._kept.get(stream)
        if found is None:
            found = tuple(self._family.parse(stream))
            self._kept[stream] = found
            if len(self._kept) > KEPT_STREAMS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(stream)
        return found


@dataclass
class Frame(Generic[P]):
    """A stream that is being obeyed, and how far."""

    packets: tuple[P | UnknownPacket, ...]
    next: int = 0


def size_of(packet: Packet | UnknownPacket) -> int:
    """Bytes of a packet in its stream."""
    return len(packet.data) if isinstance(packet, UnknownPacket) else len(packet.memory)


class Execution(Generic[P]):
    """Packets of one engine: the ring's, and buffers that packets in it call.

    obey      does what one packet asks
    consumed  called with the bytes of a packet of the ring itself, once it is done
    """

    def __init__(
        self,
        obey: Callable[[P | UnknownPacket], Outcome],
        consumed: Callable[[int], None],
    ) -> None:
        self._obey = obey
        self._consumed = consumed
        self._frames: list[Frame[P]] = []
        self._ring_packet = 0
        self.stuck = False

    @property
    def is_idle(self) -> bool:
        return not self._frames

    def call(self, packets: tuple[P | UnknownPacket, ...], *, chain: bool = False) -> bool:
        """Obey these next, before what follows; False if it goes too deep."""
        if chain and len(self._frames) > 1:
            self._frames.pop()
        if len(self._frames) > MOST_NESTING:
            return False
        self._frames.append(Frame(packets))
        return True

    def run(self) -> Outcome:
        """Go on where it stopped."""
        for _ in range(MOST_PACKETS):
            if self.stuck:
                return Outcome.STUCK
            if not self._frames:
                return Outcome.DONE
            frame = self._frames[-1]
            if frame.next == len(frame.packets):
                self._leave()
                continue
            packet = frame.packets[frame.next]
            frame.next += 1
            if len(self._frames) == 1:
                self._ring_packet = size_of(packet)
            outcome = self._obey(packet)
            if outcome in (Outcome.WAITING, Outcome.PAUSED):
                frame.next -= 1
                return outcome
            if outcome is Outcome.STUCK:
                self.stuck = True
                return outcome
            if len(self._frames) == 1:
                self._consumed(self._ring_packet)
        self.stuck = True
        return Outcome.STUCK

    def _leave(self) -> None:
        self._frames.pop()
        if len(self._frames) == 1:  # back in the ring: the packet that called is done
            self._consumed(self._ring_packet)
