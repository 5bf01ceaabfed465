"""Few large DMA mappings, cut into the many small ones that a driver asks for.

TinyGPU.app allows 128 mappings in a session, gives none back, and describes each by at most 32
bus segments, cutting off silently what lies beyond. So mappings are made in slabs; the part of a
slab that its segments do not cover is never used; freed ranges are used again. A pure data
structure: how a slab is mapped is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exosuit.errors import LinkError
from exosuit.link.function import PAGE, Segment, cut
from exosuit.link.wire import MAPPING_LIMIT
from exosuit.units import MiB, human_bytes, round_up

SLAB_SIZE = 16 * MiB


@dataclass(slots=True)
class Slab:
    """One mapping: its bytes here, its place on the bus, and the ranges that are free."""

    view: memoryview
    segments: list[Segment]
    free: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def usable(self) -> int:
        return min(sum(segment.size for segment in self.segments), len(self.view))


class SlabAllocator:
    """Ranges of DMA memory out of at most `limit` slabs.

    map_slab  maps at least so many bytes; may come back with fewer usable ones
    """

    def __init__(
        self,
        map_slab: Callable[[int], Slab],
        slab_size: int = SLAB_SIZE,
        limit: int = MAPPING_LIMIT,
    ) -> None:
        self._map_slab = map_slab
        self._slab_size = slab_size
        self._limit = limit
        self.slabs: list[Slab] = []

    def allocate(self, size: int, *, contiguous: bool) -> tuple[Slab, int]:
        """A slab and the offset in it of `size` free bytes, whole pages.

        Raises LinkError if the mappings are used up, or if no mapping comes out whole.
        """
        size = round_up(max(size, 1), PAGE)
        for slab in self.slabs:
            offset = self._place(slab, size, contiguous)
            if offset is not None:
                return slab, offset
        for wanted in dict.fromkeys((max(size, self._slab_size), size)):
            slab = self._grow(wanted)
            offset = self._place(slab, size, contiguous)
            if offset is not None:
                return slab, offset
        raise LinkError(
            f"no {human_bytes(size)} of{' contiguous' if contiguous else ''} DMA memory in one"
            " mapping",
            cause="this computer's memory is in too many pieces for the 32 bus segments that a"
            " mapping may have",
            next="restart the computer, or load a smaller model:  exosuit plan MODEL",
            size=size,
        )

    def release(self, slab: Slab, offset: int, size: int) -> None:
        """Give a range back and merge it with its free neighbours."""
        ranges = sorted([*slab.free, (offset, round_up(max(size, 1), PAGE))])
        merged = [ranges[0]]
        for start, length in ranges[1:]:
            last, last_length = merged[-1]
            assert last + last_length <= start, "a range of DMA memory was freed twice"
            if last + last_length == start:
                merged[-1] = (last, last_length + length)
            else:
                merged.append((start, length))
        slab.free = merged

    def _grow(self, size: int) -> Slab:
        if len(self.slabs) >= self._limit:
            raise LinkError(
                f"all {self._limit} DMA mappings of this session are used",
                cause="TinyGPU.app allows no more and gives none back before the session ends",
                next="end this program and start it again",
                limit=self._limit,
            )
        slab = self._map_slab(size)
        slab.free = [(0, slab.usable // PAGE * PAGE)]
        self.slabs.append(slab)
        return slab

    @staticmethod
    def _place(slab: Slab, size: int, contiguous: bool) -> int | None:
        """Take `size` bytes out of the first free range that will do."""
        for index, (start, length) in enumerate(slab.free):
            candidates = [start]
            if contiguous:
                bounds = _boundaries(slab.segments)
                candidates += [b for b in bounds if start < b < start + length]
            for offset in candidates:
                if offset + size > start + length:
                    break
                if contiguous and len(cut(slab.segments, offset, size)) > 1:
                    continue
                left = [(start, offset - start), (offset + size, start + length - offset - size)]
                slab.free[index : index + 1] = [r for r in left if r[1]]
                return offset
        return None


def _boundaries(segments: list[Segment]) -> list[int]:
    """Offsets at which a segment begins."""
    found: list[int] = []
    offset = 0
    for segment in segments:
        found.append(offset)
        offset += segment.size
    return found
