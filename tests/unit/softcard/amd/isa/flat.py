"""A stand-in for a card around `Shaders`: one flat memory, its own trivial TLB, and launches."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exosuit.driver.amd.loader import Image, load
from exosuit.program import Program
from exosuit.silicon.amd.code import LDS_GRANULE, Rsrc1, Rsrc2
from exosuit.silicon.amd.compute import TmpringSize
from exosuit.softcard.amd.isa.shaders import Cost, Dispatch, Shaders

BASE = 0x2000_0000_0000
PAGE = 4096
READ, WRITE, EXECUTE = 1, 2, 4
LDS_FIELD = Rsrc2.FIELDS["lds_size"]


class FlatTlb:
    """Maps `size` bytes from BASE; pages enter the cache when they are missed, as a card's do."""

    def __init__(self, size: int = 64 << 20) -> None:
        self.base = BASE
        self.pages = size // PAGE
        self.memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        self.entries = np.zeros(self.pages, np.uint64)
        self.permissions = np.full(self.pages, READ | WRITE | EXECUTE, np.uint64)
        self.dummy = np.frombuffer(mmap.mmap(-1, PAGE), np.uint8)
        self.faults: list[tuple[int, int]] = []

    def miss(self, address: int, access: int) -> int:
        page = (address - self.base) // PAGE
        if not 0 <= page < self.pages or int(self.permissions[page]) & access != access:
            self.faults.append((address, access))
            return self.dummy.ctypes.data | READ | WRITE | EXECUTE
        self.entries[page] = self.memory.ctypes.data + page * PAGE | int(self.permissions[page])
        return int(self.entries[page])


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Host code of this test run: the routines are made once."""
    return tempfile.TemporaryDirectory()


class FlatCard:
    """Memory that is handed out once, and programs that run on it."""

    def __init__(self, size: int = 64 << 20, threads: int = 1, **options: Any) -> None:
        self.tlb = FlatTlb(size)
        self.shaders = Shaders("gfx1100", self.tlb, Path(_folder().name), threads, **options)
        self.top = PAGE  # nothing lies in the first page

    def place(self, data: np.ndarray | bytes, align: int = 256) -> int:
        """Copy data into fresh memory; its address."""
        raw = np.frombuffer(bytes(data) if isinstance(data, bytes) else data.tobytes(), np.uint8)
        self.top = -(-self.top // align) * align
        start = self.top
        self.tlb.memory[start : start + raw.size] = raw
        self.top += raw.size
        return BASE + start

    def read(self, address: int, dtype: Any, count: int) -> np.ndarray:
        start = address - BASE
        size = np.dtype(dtype).itemsize * count
        return self.tlb.memory[start : start + size].view(dtype).copy()

    def launch(
        self,
        image: Image,
        arguments: Sequence[int | float | np.ndarray],
        groups: int | tuple[int, int, int],
        threads: int | tuple[int, int, int],
    ) -> Cost:
        """Arguments are addresses, numbers (i32, f32 in 8-byte slots), or arrays to place."""
        words = [_slot(self, x) for x in arguments]
        block = self.place(np.array(words, np.uint64))
        code = self.place(image.bytes)
        descriptor = image.descriptor
        lds = -(-descriptor.group_segment_bytes // LDS_GRANULE)
        scratch = descriptor.private_segment_bytes
        wave_bytes = -(-scratch * 64 // 256)
        self.scratch = self.place(np.zeros(wave_bytes * 256 * 64, np.uint8)) if scratch else 0
        return self.shaders.run(
            Dispatch(
                entry=code + image.entry_offset,
                rsrc1=int(descriptor.rsrc1),
                rsrc2=int(Rsrc2(int(descriptor.rsrc2), lds_size=lds)),
                rsrc3=int(descriptor.rsrc3),
                user_data=(block & 0xFFFFFFFF, block >> 32),
                threads=(threads, 1, 1) if isinstance(threads, int) else threads,
                groups=(groups, 1, 1) if isinstance(groups, int) else groups,
                scratch_base=self.scratch,
                tmpring=int(TmpringSize(waves=64, wavesize=wave_bytes)),
            )
        )

    def launch_program(
        self, program: Program, arguments: Sequence[int | float | np.ndarray], groups: int
    ) -> Cost:
        return self.launch(load(program.code, program.entry), arguments, groups, program.group_size)

    def run_code(self, code: bytes, user_data: Sequence[int] = (), **options: Any) -> Cost:
        """Run raw machine code: one workgroup of one wave unless told otherwise."""
        values: dict[str, Any] = {
            "rsrc1": int(Rsrc1(float_mode=0xF0, ieee_mode=True, dx10_clamp=True)),
            "rsrc2": int(Rsrc2(user_sgpr=15)), "rsrc3": 0, "user_data": tuple(user_data),
            "threads": (32, 1, 1), "groups": (1, 1, 1),
        }  # fmt: skip
        return self.shaders.run(Dispatch(entry=self.place(code + bytes(64)), **(values | options)))


def _slot(card: FlatCard, value: int | float | np.ndarray) -> int:
    if isinstance(value, np.ndarray):
        return card.place(value)
    if isinstance(value, float):
        return int(np.float32(value).view(np.uint32))
    return int(value) & (1 << 64) - 1
