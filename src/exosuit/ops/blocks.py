"""How a kernel reads one block of packed weights: eight rows at a time, or one row per lane.

A `Format` says what the fields of a block mean; a `Block` says where their units lie. CPUs pack
eight rows side by side, unit by unit, so that a vector holds the same unit of eight rows. GPUs pack
32 rows, one for each lane of a wave: a row's fields are put one after the other, the large ones
first, and this record is cut into pieces of 16 bytes (and at its end 8, 4, 2, 1) of which the 32
rows' stand side by side. So a lane loads 16 bytes at once, and a wave 512 in one run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from exosuit.kernel import DType, Pointer, Target, Value, f16, f32, u8, u16, u32

ROWS = 8
"""Rows that are packed side by side for a CPU."""

LANE_ROWS = 32
"""Rows that are packed side by side for a GPU, one for each lane of a wave."""


def rows_side_by_side(target: Target) -> int:
    """Rows of a panel, as this target's kernels read it."""
    return LANE_ROWS if target.is_gpu else ROWS


@dataclass(frozen=True)
class Field:
    """A field of a block in the file: `offset` and `size` in bytes, moved in units of `unit`.

    spread  the field is 32 bits, one for each element: byte `e` of the packed dword gets the bits
            of the elements `e`, `4 + e`, `8 + e`, ... in its bits 0, 1, 2, ...
    """

    offset: int
    size: int
    unit: int
    spread: bool = False


Fields = tuple[Field, ...]


class Block(ABC):
    """One block of the `rows` rows that a value of the kernel spans."""

    rows: int

    @abstractmethod
    def byte(self, field: int, index: int = 0) -> Value:
        """u8[rows]: a byte of a field with units of one byte."""

    @abstractmethod
    def half(self, field: int) -> Value:
        """f32[rows]: a field that is an f16."""

    @abstractmethod
    def four(self, field: int, index: int) -> Value:
        """u8[4 * rows]: the four bytes from `4 * index` on, each for all rows in turn."""

    @abstractmethod
    def word(self, field: int, index: int) -> Value:
        """u8[4 * rows]: a unit of four bytes, the rows in turn."""

    @abstractmethod
    def skip(self, words: Value | int) -> Block:
        """The block as if its words began so many later; for `word` only."""


@dataclass(frozen=True)
class PackedBlock(Block):
    """Eight rows side by side at `pointer`."""

    pointer: Pointer[DType]
    fields: Fields
    rows = ROWS

    def byte(self, field: int, index: int = 0) -> Value:
        return self.pointer.load(self._place(field) + ROWS * index, ROWS)

    def half(self, field: int) -> Value:
        return self.pointer.at(self._place(field)).view(f16).load(0, ROWS).to(f32)

    def four(self, field: int, index: int) -> Value:
        return self.word(field, index)

    def word(self, field: int, index: int) -> Value:
        return self.pointer.load(self._place(field) + 4 * ROWS * index, 4 * ROWS)

    def skip(self, words: Value | int) -> Block:
        return PackedBlock(self.pointer.at(words * (4 * ROWS)), self.fields)

    def _place(self, field: int) -> int:
        return ROWS * sum(f.size for f in self.fields[:field])


class Record(Block):
    """One row's block in pieces; `pointer` is the panel's block, `lane` the row within the panel.

    What has been loaded is kept, so each piece is loaded once however often it is asked for.
    """

    rows = 1

    def __init__(
        self, pointer: Pointer[DType], lane: Value, fields: Fields, streaming: bool = False
    ) -> None:
        self._pointer = pointer
        self._lane = lane
        self._fields = fields
        self._streaming = streaming
        self._places = record_places(fields)
        self._pieces = record_pieces(fields)
        self._loaded: dict[int, Value] = {}
        self._skipped = 0

    def byte(self, field: int, index: int = 0) -> Value:
        return self._bytes(self._places[field] + index, 1)

    def half(self, field: int) -> Value:
        return self._bytes(self._places[field], 2).view(f16).to(f32)

    def four(self, field: int, index: int) -> Value:
        return self._bytes(self._places[field] + 4 * index, 4)

    def word(self, field: int, index: int) -> Value:
        return self._bytes(self._places[field] + 4 * (index + self._skipped), 4)

    def skip(self, words: Value | int) -> Block:
        assert isinstance(words, int), "a record lies in registers, whose numbers are fixed"
        later = Record(self._pointer, self._lane, self._fields, self._streaming)
        later._loaded = self._loaded
        later._skipped = self._skipped + words
        return later

    def _bytes(self, place: int, count: int) -> Value:
        """u8[count] from `place` of the record on; none straddles two pieces."""
        start, size = next(p for p in self._pieces if p[0] <= place < p[0] + p[1])
        assert place + count <= start + size, "a unit that straddles two pieces"
        piece = self._piece(start, size)
        if size < 4:
            return piece.shuffle(range(place - start, place - start + count))
        word = piece[(place - start) // 4]
        first = (place - start) % 4
        if count == 4:
            return word.view(u8)
        return (word >> (8 * first)).to(u16 if count == 2 else u8).view(u8)

    def _piece(self, start: int, size: int) -> Value:
        """The piece as u32s, or as u8s where it is shorter than one."""
        if start not in self._loaded:
            place = self._pointer.at(start * LANE_ROWS).at(self._lane * size)
            if size >= 4:
                loaded = place.view(u32).load(0, size // 4, size, self._streaming)
            else:
                loaded = place.load(0, size, size, self._streaming)
            self._loaded[start] = loaded
        return self._loaded[start]


def record_order(fields: Fields) -> list[int]:
    """Numbers of the fields in the order of a record: whole pieces first, the rest by size."""
    large = [n for n, f in enumerate(fields) if f.size % 16 == 0]
    small = [n for n, f in enumerate(fields) if f.size % 16]
    return large + sorted(small, key=lambda n: -fields[n].size)


def record_places(fields: Fields) -> dict[int, int]:
    """Where each field begins in a record."""
    places: dict[int, int] = {}
    place = 0
    for number in record_order(fields):
        places[number] = place
        place += fields[number].size
    return places


def record_pieces(fields: Fields) -> list[tuple[int, int]]:
    """Start and size of each piece of a record."""
    rest, start = sum(f.size for f in fields), 0
    pieces: list[tuple[int, int]] = []
    for size in (16, 8, 4, 2, 1):
        while rest >= size:
            pieces.append((start, size))
            start, rest = start + size, rest - size
    return pieces
