"""Accesses with names: which register, which fields, which packets behind a doorbell.

A tape is raw; here it gets its words. What a chip's registers are called comes from `silicon`,
through one small `ChipMap` per chip. What nobody described is shown in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exosuit.silicon import pci
from exosuit.trace.chips import ChipMap, chip_map
from exosuit.trace.tape import Kind, Record, Tape, data_of
from exosuit.units import human_bytes, human_seconds

LETTERS = {
    Kind.CONFIG_READ: "R",
    Kind.CONFIG_WRITE: "W",
    Kind.READ: "R",
    Kind.WRITE: "W",
    Kind.DMA_READ: "R",
    Kind.DMA_WRITE: "W",
}
SHOWN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a shown tape."""

    t_ns: int
    step: str
    text: str


class Decoder:
    """Explains the records of one tape, in order: it remembers what DMA memory holds."""

    def __init__(self, tape: Tape) -> None:
        self._chip: ChipMap = chip_map(tape.vendor, tape.device)
        self._tape = tape

    def lines(self) -> Iterator[Line]:
        """The whole tape, step marks folded into the lines that follow them."""
        step = ""
        for record in self._tape.records:
            if record.kind is Kind.STEP:
                step = record.region
                continue
            yield Line(record.t_ns, step, self.follow(record))

    def follow(self, record: Record) -> str:
        """The next access of the tape in words, with what came before in mind."""
        self._chip.remember(record)
        return self.line(record)

    def line(self, record: Record) -> str:
        """One access in words."""
        match record.kind:
            case Kind.CONFIG_READ | Kind.CONFIG_WRITE:
                text = f"{LETTERS[record.kind]} config+{record.offset:03x}  {_config(record)}"
            case Kind.READ | Kind.WRITE:
                named = self._chip.explain(record)
                shown = named or _value(record)
                text = f"{LETTERS[record.kind]} {record.region}+{record.offset:x}  {shown}"
            case Kind.DMA_READ | Kind.DMA_WRITE:
                where = f"{record.region}+{record.offset:x}"
                shown = self._chip.explain(record) or _value(record)
                text = f"{LETTERS[record.kind]} {where}  {shown}"
            case Kind.MAP:
                text = f"  {record.region} opens {human_bytes(record.width)} at {record.offset:#x}"
            case Kind.RESIZE:
                text = f"  {record.region} resized to {_value(record)}"
            case Kind.ALLOCATE:
                segments = len(record.value) // 16 if isinstance(record.value, bytes) else 0
                text = f"  {record.region} allocated, {human_bytes(record.width)} in {segments}"
            case Kind.FREE | Kind.RESET:
                text = f"  {record.region} {record.kind.value}"
            case Kind.LOST:
                words = record.value if isinstance(record.value, bytes) else b""
                text = f"! {words.decode('utf-8', 'replace').strip()}"
            case Kind.STEP:
                text = f"# {record.region}"
        if record.count > 1:
            text += f"   x{record.count} over {human_seconds((record.last_ns - record.t_ns) / 1e9)}"
        return text


def _value(record: Record) -> str:
    if isinstance(record.value, int):
        return f"{record.value:0{max(record.width, 1) * 2}x}"
    shown = record.value[:SHOWN_BYTES].hex(" ", 4)
    more = " ..." if len(record.value) > SHOWN_BYTES else ""
    return f"{human_bytes(len(record.value))}: {shown}{more}"


_HEADER = {
    slot.offset: (name, slot.size)
    for name, slot in pci.ConfigHeader.SLOTS.items()
    if slot.size in (1, 2, 4)
}


def _config(record: Record) -> str:
    name, size = _HEADER.get(record.offset, ("", 0))
    value = int.from_bytes(data_of(record), "little")
    if name == "command" and record.width == 2:
        return f"command = {value:04x}  {pci.Command(value).explain()}"
    if name and size == record.width:
        return f"{name} = {_value(record)}"
    if record.offset == 0 and record.width == 4:
        return f"vendor:device = {value & 0xFFFF:04x}:{value >> 16:04x}"
    if 0x10 <= record.offset < 0x28:
        return f"BAR{(record.offset - 0x10) // 4} = {_value(record)}"
    return _value(record)
