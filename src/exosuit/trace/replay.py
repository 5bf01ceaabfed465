"""`Replay`: a link made of a tape.

Strict replay demands the same accesses in the same order and shows both sides at the first that
differs. Lenient replay answers reads by address, each with its recorded values in turn, so that a
driver may poll more or less often than it did on the day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NoReturn

from exosuit.errors import LinkError, LinkLost
from exosuit.link.function import (
    Closing,
    Counters,
    Data,
    Segment,
    check_access,
    check_config,
    locate,
)
from exosuit.trace.decode import Decoder
from exosuit.trace.tape import READS, WRITES, Kind, Record, Tape, data_of, value_of
from exosuit.units import BusAddress

CONTEXT = 5
"""Lines shown before and after a divergence."""


class TapeDiverged(LinkError):
    """The program does something else than what was recorded."""


class Replay(Closing):
    """A `PciFunction` that answers as the tape does. Raises TapeDiverged, LinkLost where it was."""

    def __init__(self, tape: Tape, *, strict: bool = True) -> None:
        self.name = f"tape:{tape.chip}"
        self.counters = Counters()
        self._tape = tape
        self._strict = strict
        self._records = [r for r in tape.records if r.kind is not Kind.STEP]
        self._at = 0
        self._left = self._records[0].count if self._records else 0
        self._mappings = 0
        self._closed = False
        self._answers: dict[tuple[Kind, str, int, int], deque[Record]] = {}
        if not strict:
            for record in self._records:
                key = (record.kind, record.region, record.offset, record.width)
                self._answers.setdefault(key, deque()).append(record)

    @property
    def is_finished(self) -> bool:
        """Whether every recorded access has been made; of strict replay only."""
        return self._at >= len(self._records)

    def read_config(self, offset: int, size: int) -> int:
        check_config(offset, size)
        self.counters.round_trips += 1
        record = self.expect(Record(0, Kind.CONFIG_READ, "config", offset, size))
        return int.from_bytes(data_of(record), "little")

    def write_config(self, offset: int, value: int, size: int) -> None:
        check_config(offset, size)
        self.counters.round_trips += 1
        self.expect(Record(0, Kind.CONFIG_WRITE, "config", offset, size, value))

    def bar(self, index: int) -> ReplayedBar:
        record = self.expect(Record(0, Kind.MAP, f"BAR{index}"))
        return ReplayedBar(self, index, record.offset, record.width)

    def resize_bar(self, index: int) -> int:
        self.counters.round_trips += 1
        record = self.expect(Record(0, Kind.RESIZE, f"BAR{index}"))
        return record.value if isinstance(record.value, int) else 0

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> ReplayedMemory:
        self.counters.round_trips += 1
        region = f"dma{self._mappings}"
        self._mappings += 1
        record = self.expect(Record(0, Kind.ALLOCATE, region, int(contiguous), size))
        pairs = record.value if isinstance(record.value, bytes) else b""
        numbers = [int.from_bytes(pairs[at : at + 8], "little") for at in range(0, len(pairs), 8)]
        segments = [
            Segment(BusAddress(address), length)
            for address, length in zip(numbers[::2], numbers[1::2], strict=True)
        ]
        return ReplayedMemory(self, region, size, segments)

    def reset(self) -> None:
        self.counters.round_trips += 1
        self.expect(Record(0, Kind.RESET, "function"))

    def close(self) -> None:
        """Nothing is held; further accesses raise LinkLost."""
        self._closed = True

    def expect(self, wanted: Record) -> Record:
        """The recorded access that answers `wanted`."""
        if self._closed:
            raise LinkLost(
                "the tape is closed", cause="the link was closed", next="open the tape again"
            )
        return self._next_in_order(wanted) if self._strict else self._next_by_address(wanted)

    def _next_in_order(self, wanted: Record) -> Record:
        record = self._records[self._at] if self._at < len(self._records) else None
        if record is not None and record.kind is Kind.LOST:
            raise LinkLost(
                _words(record),
                cause="the link was lost here when the tape was recorded",
                next="exosuit trace show FILE",
            )
        if record is None or not _answers(record, wanted):
            self._diverge(wanted)
        self._left -= 1
        if self._left == 0:
            self._at += 1
            self._left = self._records[self._at].count if self._at < len(self._records) else 0
        return record

    def _next_by_address(self, wanted: Record) -> Record:
        if wanted.kind in WRITES or wanted.kind in (Kind.RESET, Kind.FREE):
            return wanted
        matches = [
            queue
            for (kind, region, offset, width), queue in self._answers.items()
            if kind == wanted.kind
            and region == wanted.region
            and (wanted.kind not in READS or (offset == wanted.offset and width == wanted.width))
        ]
        if not matches:
            self._diverge(wanted)
        queue = matches[0]
        record = queue[0]
        record.count -= 1
        if record.count <= 0 and len(queue) > 1:
            queue.popleft()
        return record

    def _diverge(self, wanted: Record) -> NoReturn:
        decoder = Decoder(self._tape)
        lines = [decoder.line(record) for record in self._records[: self._at + CONTEXT]]
        before, after = lines[max(self._at - CONTEXT, 0) : self._at], lines[self._at :]
        recorded = after[0] if after else "the end of the tape"
        done = decoder.line(wanted)
        raise TapeDiverged(
            f"in step {self._step()!r} the program does  {done.strip()}"
            f"  where the tape has  {recorded.strip()}",
            cause="the driver changed since the tape was recorded (or the tape is of another card)",
            next="exosuit trace diff OLD NEW, with a new recording",
            before=before,
            recorded=recorded,
            after=after,
            done=done,
            access=self._at,
            step=self._step(),
        )

    def _step(self) -> str:
        """The name of the step that the tape is in."""
        name, seen = "start", 0
        for record in self._tape.records:
            if record.kind is Kind.STEP:
                name = record.region
            elif seen == self._at:
                break
            else:
                seen += 1
        return name


class ReplayedRegion:
    """A region that answers from the tape."""

    def __init__(
        self, replay: Replay, name: str, title: str, size: int, read: Kind, write: Kind
    ) -> None:
        self._replay = replay
        self._name = name
        self._title = title
        self._read_kind = read
        self._write_kind = write
        self.size = size

    def read32(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))

    def write64(self, offset: int, value: int) -> None:
        check_access(self._title, self.size, offset, 8, 8)
        self.write(offset, value.to_bytes(8, "little"))

    def read(self, offset: int, size: int) -> bytes:
        check_access(self._title, self.size, offset, size)
        if size == 0:
            return b""
        counters = self._replay.counters
        counters.reads += 1
        counters.round_trips += 1
        counters.bytes_read += size
        record = self._replay.expect(Record(0, self._read_kind, self._name, offset, size))
        return data_of(record)

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self.read(offset, len(target))

    def write(self, offset: int, data: Data) -> None:
        check_access(self._title, self.size, offset, len(data))
        if not len(data):
            return
        counters = self._replay.counters
        counters.writes += 1
        counters.bytes_written += len(data)
        wanted = Record(0, self._write_kind, self._name, offset, len(data), value_of(data))
        self._replay.expect(wanted)


class ReplayedBar(ReplayedRegion):
    """A BAR on a tape."""

    def __init__(self, replay: Replay, index: int, address: int, size: int) -> None:
        super().__init__(replay, f"BAR{index}", f"BAR {index}", size, Kind.READ, Kind.WRITE)
        self.index = index
        self.address = address


class ReplayedMemory(ReplayedRegion):
    """DMA memory on a tape."""

    view: memoryview | None = None

    def __init__(self, replay: Replay, name: str, size: int, segments: Sequence[Segment]) -> None:
        super().__init__(replay, name, "DMA memory", size, Kind.DMA_READ, Kind.DMA_WRITE)
        self.segments = tuple(segments)

    def bus_address(self, offset: int = 0) -> BusAddress:
        return locate(self.segments, offset)

    def free(self) -> None:
        self._replay.expect(Record(0, Kind.FREE, self._name))


def _answers(record: Record, wanted: Record) -> bool:
    """Whether a recorded access is the one wanted; what is read cannot differ, it is the answer."""
    if record.kind != wanted.kind or record.region != wanted.region:
        return False
    if wanted.kind in (Kind.MAP, Kind.RESIZE, Kind.RESET, Kind.FREE):
        return True
    if record.offset != wanted.offset or record.width != wanted.width:
        return False
    return wanted.kind not in WRITES or record.value == wanted.value


def _words(record: Record) -> str:
    if isinstance(record.value, bytes):
        return record.value.decode("utf-8", "replace").strip()
    return "the link was lost"
