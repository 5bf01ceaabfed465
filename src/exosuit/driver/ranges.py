"""Ranges of numbers, taken and given back: local memory, page tables, virtual addresses.

A pure data structure: free ranges in order, first fit, neighbours merged.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from exosuit.units import round_up


class Range(NamedTuple):
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class Ranges:
    """Everything from `start` to `end` that nobody has taken."""

    def __init__(self, start: int, end: int) -> None:
        self._free = [Range(start, end - start)] if end > start else []
        self.free_bytes = max(end - start, 0)

    def take(self, size: int, alignment: int) -> int | None:
        """The start of `size` free numbers at a multiple of `alignment`, or None."""
        for index, free in enumerate(self._free):
            start = round_up(free.start, alignment)
            if start + size <= free.end:
                self._cut(index, Range(start, size))
                return start
        return None

    def take_pieces(self, size: int, granule: int) -> list[Range] | None:
        """Ranges of together `size`, each a multiple of `granule` and aligned to it, or None.

        One piece where one will do.
        """
        whole = self.take(size, granule)
        if whole is not None:
            return [Range(whole, size)]
        pieces: list[Range] = []
        for free in self._free:
            start = round_up(free.start, granule)
            length = min((free.end - start) // granule * granule, size)
            if length > 0:
                pieces.append(Range(start, length))
                size -= length
            if size == 0:
                for piece in pieces:
                    at = bisect_left(self._free, Range(piece.start + 1, 0)) - 1
                    self._cut(at, piece)
                return pieces
        return None

    def give(self, start: int, size: int) -> None:
        """Take back what was taken."""
        at = bisect_left(self._free, Range(start, 0))
        before = self._free[at - 1] if at else None
        after = self._free[at] if at < len(self._free) else None
        assert before is None or before.end <= start, "given back twice"
        assert after is None or start + size <= after.start, "given back twice"
        self.free_bytes += size
        if after is not None and after.start == start + size:
            self._free.pop(at)
            size += after.size
        if before is not None and before.end == start:
            self._free.pop(at - 1)
            start, size = before.start, size + before.size
        insort(self._free, Range(start, size))

    def _cut(self, index: int, taken: Range) -> None:
        free = self._free[index]
        left = [
            Range(free.start, taken.start - free.start),
            Range(taken.end, free.end - taken.end),
        ]
        self._free[index : index + 1] = [r for r in left if r.size]
        self.free_bytes -= taken.size
