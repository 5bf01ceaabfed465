"""`Recorder`: a link around a link that writes down everything.

Recorded DMA memory has no `view`, so every access to it comes past here and is on the tape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from exosuit.errors import LinkError, LinkLost
from exosuit.link.function import (
    Bar,
    Closing,
    Counters,
    Data,
    DmaMemory,
    PciFunction,
    Region,
    Segment,
)
from exosuit.trace.tape import Kind, Record, TapeWriter, value_of
from exosuit.units import BusAddress

T = TypeVar("T")


class Recorder(Closing):
    """Records `link` to `path`; closing it closes the link and completes the tape.

    now_ns  nanoseconds since some moment; an argument, so that tests know the time
    """

    def __init__(
        self, link: PciFunction, path: Path, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._link = link
        self._now_ns = now_ns
        self._began = now_ns()
        self._mappings = 0
        try:
            identity = link.read_config(0, 4)
            self._tape = TapeWriter(
                path,
                chip=f"{identity & 0xFFFF:04x}:{identity >> 16:04x}",
                link=link.name.partition(":")[0],
                program=_program(),
            )
        except BaseException:
            link.close()  # it was given to us
            raise

    @property
    def name(self) -> str:
        return self._link.name

    @property
    def counters(self) -> Counters:
        return self._link.counters

    def step(self, name: str) -> None:
        """Mark where a step of the driver begins."""
        self.note(Kind.STEP, name)

    def note(
        self, kind: Kind, region: str, offset: int = 0, width: int = 0, value: int | bytes = 0
    ) -> None:
        """Append one record."""
        self._tape.add(Record(self._now_ns() - self._began, kind, region, offset, width, value))

    def watch(self, access: Callable[[], T]) -> T:
        """Make an access; a loss of the link goes on the tape before it is raised."""
        try:
            return access()
        except LinkLost as error:
            self.note(Kind.LOST, "link", value=error.what.encode().ljust(9))
            raise

    def read_config(self, offset: int, size: int) -> int:
        value = self.watch(lambda: self._link.read_config(offset, size))
        self.note(Kind.CONFIG_READ, "config", offset, size, value)
        return value

    def write_config(self, offset: int, value: int, size: int) -> None:
        self.watch(lambda: self._link.write_config(offset, value, size))
        self.note(Kind.CONFIG_WRITE, "config", offset, size, value)

    def bar(self, index: int) -> RecordedBar:
        bar = self.watch(lambda: self._link.bar(index))
        self.note(Kind.MAP, f"BAR{index}", bar.address, bar.size)
        return RecordedBar(self, bar)

    def resize_bar(self, index: int) -> int:
        size = self.watch(lambda: self._link.resize_bar(index))
        self.note(Kind.RESIZE, f"BAR{index}", value=size)
        return size

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> RecordedMemory:
        memory = self.watch(lambda: self._link.allocate_dma(size, contiguous=contiguous))
        region = f"dma{self._mappings}"
        self._mappings += 1
        pairs = b"".join(
            int(number).to_bytes(8, "little") for pair in memory.segments for number in pair
        )
        self.note(Kind.ALLOCATE, region, int(contiguous), size, pairs)
        return RecordedMemory(self, memory, region)

    def reset(self) -> None:
        self.watch(self._link.reset)
        self.note(Kind.RESET, "function")

    def close(self) -> None:
        self._link.close()
        self._tape.close()


class RecordedRegion:
    """A region whose accesses go on the tape once they have succeeded."""

    def __init__(
        self, recorder: Recorder, region: Region, name: str, read: Kind, write: Kind
    ) -> None:
        self._recorder = recorder
        self._region = region
        self._name = name
        self._read_kind = read
        self._write_kind = write

    @property
    def size(self) -> int:
        return self._region.size

    def read32(self, offset: int) -> int:
        value = self._recorder.watch(lambda: self._region.read32(offset))
        self._recorder.note(self._read_kind, self._name, offset, 4, value)
        return value

    def write32(self, offset: int, value: int) -> None:
        self._recorder.watch(lambda: self._region.write32(offset, value))
        self._recorder.note(self._write_kind, self._name, offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        self._recorder.watch(lambda: self._region.write64(offset, value))
        self._recorder.note(self._write_kind, self._name, offset, 8, value)

    def read(self, offset: int, size: int) -> bytes:
        data = self._recorder.watch(lambda: self._region.read(offset, size))
        if size:
            self._recorder.note(self._read_kind, self._name, offset, size, value_of(data))
        return data

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self.read(offset, len(target))

    def write(self, offset: int, data: Data) -> None:
        self._recorder.watch(lambda: self._region.write(offset, data))
        if len(data):
            self._recorder.note(self._write_kind, self._name, offset, len(data), value_of(data))


class RecordedBar(RecordedRegion):
    """A BAR on the tape."""

    def __init__(self, recorder: Recorder, bar: Bar) -> None:
        super().__init__(recorder, bar, f"BAR{bar.index}", Kind.READ, Kind.WRITE)
        self.index = bar.index
        self.address = bar.address


class RecordedMemory(RecordedRegion):
    """DMA memory on the tape."""

    view: memoryview | None = None

    def __init__(self, recorder: Recorder, memory: DmaMemory, name: str) -> None:
        super().__init__(recorder, memory, name, Kind.DMA_READ, Kind.DMA_WRITE)
        self._memory = memory

    @property
    def segments(self) -> Sequence[Segment]:
        return self._memory.segments

    def bus_address(self, offset: int = 0) -> BusAddress:
        return self._memory.bus_address(offset)

    def free(self) -> None:
        self._memory.free()
        self._recorder.note(Kind.FREE, self._name)


def _program() -> str:
    try:
        return f"exosuit {version('exosuit')}"
    except PackageNotFoundError as error:
        raise LinkError(
            "the version of exosuit is not known",
            cause="it runs from a folder that was never installed",
            next="pip install -e .",
        ) from error
