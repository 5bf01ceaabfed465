"""The tape: JSON lines, raw, so that an old tape benefits from a better decoder.

The first line is a header. Then come accesses `[t_ns, kind, region, offset, width, value]`, with
`count, last_ns` behind where the same access was repeated in a row, steps `[t_ns, "step", name]`,
and pages `{"page": hash, "data": base64 of zlib}` that are stored once each. Values up to eight
bytes are numbers, longer ones name a page. No serial numbers, no paths of this computer.

A tape is written under a temporary name and renamed when it is complete. Reading trusts nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from exosuit.errors import CorruptFile, LinkError
from exosuit.link.function import Data

FORMAT = 1
PAGE_LIMIT = 64 << 20
"""Largest page of data that is believed."""
LINE_LIMIT = 128 << 20
SUFFIX = ".part"
REGIONS = re.compile(r"config|BAR[0-5]|dma[0-9]{1,9}|function|link")


class Kind(StrEnum):
    """What a record tells. Reads are lower case, writes upper."""

    CONFIG_READ = "c"
    CONFIG_WRITE = "C"
    READ = "r"
    WRITE = "W"
    DMA_READ = "d"
    DMA_WRITE = "D"
    MAP = "map"
    """region BAR, offset its address, width its size."""
    RESIZE = "resize"
    """region BAR, value its new size."""
    ALLOCATE = "allocate"
    """region dmaN, width its size, offset 1 if contiguous, value a page of (address, size)."""
    FREE = "free"
    RESET = "reset"
    LOST = "lost"
    """the link was lost here; value is a page with the words"""
    STEP = "step"


READS = frozenset({Kind.CONFIG_READ, Kind.READ, Kind.DMA_READ})
WRITES = frozenset({Kind.CONFIG_WRITE, Kind.WRITE, Kind.DMA_WRITE})


@dataclass(slots=True)
class Record:
    """One access, or a step mark (its name in `region`).

    offset, width  in bytes; value  a number, or bytes longer than eight
    count, last_ns  how often in a row it happened, and when the last time
    """

    t_ns: int
    kind: Kind
    region: str
    offset: int = 0
    width: int = 0
    value: int | bytes = 0
    count: int = 1
    last_ns: int = 0

    def same_access(self, other: Record) -> bool:
        """Equal in everything but time and count."""
        return (
            self.kind == other.kind
            and self.region == other.region
            and self.offset == other.offset
            and self.width == other.width
            and self.value == other.value
        )


@dataclass
class Tape:
    """A whole recording: what it is of, and its records in order."""

    chip: str
    link: str
    program: str
    records: list[Record] = field(default_factory=list[Record])

    @property
    def vendor(self) -> int:
        return int(self.chip[:4], 16)

    @property
    def device(self) -> int:
        return int(self.chip[5:9], 16)

    @classmethod
    def load(cls, path: Path) -> Tape:
        """Read a tape. Raises CorruptFile, naming the line, if it is not one."""
        try:
            with path.open("rb") as stream:
                return _Reader(path).read(stream_lines(stream))
        except OSError as error:
            raise CorruptFile(
                f"the tape {path} cannot be read",
                cause=str(error),
                next=f"ls -l {path}",
                path=str(path),
            ) from error


class TapeWriter:
    """Appends records to a tape, folding repeats and storing each page once."""

    def __init__(self, path: Path, *, chip: str, link: str, program: str) -> None:
        self.path = path
        self._partial = path.with_name(path.name + SUFFIX)
        self._pages: set[str] = set()
        self._last: Record | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._partial.open("w", encoding="ascii")
        except OSError as error:
            raise LinkError(
                f"the tape {path} cannot be written",
                cause=str(error),
                next="choose another file:  exosuit trace record --out /tmp/card.tape",
                path=str(path),
            ) from error
        self._put({"tape": FORMAT, "chip": chip, "link": link, "program": program})

    def add(self, record: Record) -> None:
        """Append a record; the same access again only counts."""
        last = self._last
        if last is not None and last.kind is not Kind.STEP and last.same_access(record):
            last.count += 1
            last.last_ns = record.t_ns
            return
        self._flush()
        self._last = record

    def close(self) -> None:
        """Complete the tape and give it its name. Idempotent."""
        if self._stream.closed:
            return
        self._flush()
        self._stream.close()
        os.replace(self._partial, self.path)

    def _flush(self) -> None:
        record, self._last = self._last, None
        if record is None:
            return
        if record.kind is Kind.STEP:
            self._put([record.t_ns, record.kind, record.region])
            return
        value = record.value if isinstance(record.value, int) else self._page(record.value)
        line: list[Any] = [
            record.t_ns,
            record.kind,
            record.region,
            record.offset,
            record.width,
            value,
        ]
        if record.count > 1:
            line += [record.count, record.last_ns]
        self._put(line)

    def _page(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()[:24]
        if name not in self._pages:
            self._pages.add(name)
            packed = base64.b64encode(zlib.compress(data, 1)).decode("ascii")
            self._put({"page": name, "data": packed})
        return name

    def _put(self, line: object) -> None:
        json.dump(line, self._stream, separators=(",", ":"))
        self._stream.write("\n")


def value_of(data: Data) -> int | bytes:
    """How a tape holds data: a number up to eight bytes, else the bytes."""
    return int.from_bytes(data, "little") if len(data) <= 8 else bytes(data)


def data_of(record: Record) -> bytes:
    """The bytes that a record's value stands for."""
    if isinstance(record.value, bytes):
        return record.value
    return record.value.to_bytes(record.width, "little")


def stream_lines(stream: Any) -> Iterator[bytes]:
    """Lines of a file, none longer than `LINE_LIMIT`."""
    while line := stream.readline(LINE_LIMIT):
        yield line


class _Reader:
    """Reads a tape line by line, believing nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages: dict[str, bytes] = {}

    def read(self, lines: Iterator[bytes]) -> Tape:
        tape: Tape | None = None
        for number, line in enumerate(lines, 1):
            try:
                parsed = json.loads(line)
                if tape is None:
                    tape = self._header(parsed)
                elif isinstance(parsed, dict):
                    self._page(cast("dict[str, Any]", parsed))
                else:
                    tape.records.append(self._record(parsed))
            except (
                ValueError,
                KeyError,
                TypeError,
                OverflowError,
                RecursionError,
                binascii.Error,
                zlib.error,
            ) as error:
                raise self._corrupt(number, f"{type(error).__name__}: {error}") from error
        if tape is None:
            raise self._corrupt(1, "the file is empty")
        return tape

    def _header(self, parsed: Any) -> Tape:
        if parsed["tape"] != FORMAT:
            raise ValueError(f"format {parsed['tape']!r} is not {FORMAT}")
        tape = Tape(str(parsed["chip"]), str(parsed["link"]), str(parsed["program"]))
        if len(tape.chip) != 9:
            raise ValueError(f"{tape.chip!r} is no vendor:device")
        _ = tape.vendor, tape.device
        return tape

    def _page(self, parsed: dict[str, Any]) -> None:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(parsed["data"], validate=True), PAGE_LIMIT)
        if unpacker.unconsumed_tail:
            raise ValueError(f"a page is larger than {PAGE_LIMIT} bytes")
        if hashlib.sha256(data).hexdigest()[:24] != parsed["page"]:
            raise ValueError("a page does not have its hash")
        self._pages[parsed["page"]] = data

    def _record(self, parsed: Any) -> Record:
        t_ns, kind = int(parsed[0]), Kind(parsed[1])
        if kind is Kind.STEP:
            return Record(t_ns, kind, str(parsed[2]))
        region, offset, width, value = parsed[2:6]
        if not REGIONS.fullmatch(region):
            raise ValueError(f"there is no region {region!r}")
        count, last_ns = parsed[6:8] if len(parsed) > 6 else (1, 0)
        if isinstance(value, str):
            value = self._pages[value]
            if kind in READS | WRITES and len(value) != width:
                raise ValueError(f"{width} bytes are recorded, the page has {len(value)}")
        elif kind in READS | WRITES and not (0 < width <= 8 and 0 <= int(value) < 1 << 8 * width):
            raise ValueError(f"{value!r} is no value of {width} bytes")
        if int(count) < 1 or int(offset) < 0 or int(width) < 0:
            raise ValueError("a count, offset or width is out of range")
        return Record(
            t_ns, kind, str(region), int(offset), int(width), value, int(count), int(last_ns)
        )

    def _corrupt(self, number: int, detail: str) -> CorruptFile:
        return CorruptFile(
            f"{self._path.name} is not a readable tape",
            cause=f"line {number}: {detail[:200]}",
            next="record it again:  exosuit trace record --out FILE",
            path=str(self._path),
            line=number,
        )
