"""Dispatches of real machine code: read through the card's TLB, translated once, run to the end.

`Shaders` is what the command processor of a software card runs its dispatches with. Code is known
by its bytes, so a program that was changed in memory is translated anew. All host threads given to
it take workgroups until none are left; the interpreter's lock is free meanwhile, and taken only
where a page is not in the TLB.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import UnsupportedCard
from exosuit.silicon.amd.code import LDS_GRANULE, Rsrc1, Rsrc2
from exosuit.silicon.amd.compute import SCRATCH_GRANULE, TmpringSize
from exosuit.softcard.amd.isa import routines, state, translate
from exosuit.softcard.amd.isa.decode import decode, decode_one
from exosuit.softcard.amd.isa.groups import (
    LOCAL_MOST,
    MOST_WAVES,
    Job,
    Worker,
    groups_ir,
    work_items,
)
from exosuit.softcard.amd.isa.translate import Kind
from exosuit.softcard.amd.isa.wave import FloatMode
from exosuit.softcard.translation.host import HostCode, aligned, sources_hash
from exosuit.softcard.translation.ir import WAVE

READ, WRITE, EXECUTE = 1, 2, 4
PAGE = 4096
BUDGET = 1 << 34
"""Instructions times lanes that one wave may run: tens of seconds of the host."""
_SLICE = 1 << 22
_GENERATION = "gfx11"
_KEPT_IN_FLOAT_MODE = 0xF0
_ROUNDING = 0x0F
_SPARE_PLACE = state.scalar_offset(state.NULL)

_KINDS = {
    Kind.ILLEGAL: "illegal instruction",
    Kind.TRAP: "trap",
    Kind.HANG: "hang",
}


class Tlb(Protocol):
    """Translations of the card's addresses, one entry per 4 KiB page.

    base     the first GPU virtual address covered
    pages    how many pages are covered
    entries  per page the HOST address of the page | READ 1 | WRITE 2 | EXECUTE 4; 0 if not cached
    """

    @property
    def base(self) -> int: ...

    @property
    def pages(self) -> int: ...

    @property
    def entries(self) -> NDArray[np.uint64]: ...

    def miss(self, address: int, access: int) -> int:
        """Walk the page tables, cache and return the entry; after a fault a dummy page's."""
        ...


@dataclass(frozen=True)
class Dispatch:
    """What the command processor knows of a dispatch.

    entry         GPU virtual address of the first instruction
    rsrc1..rsrc3  as in COMPUTE_PGM_RSRC1..3
    user_data     USER_DATA_0..15
    threads       work-items of one workgroup in each dimension
    groups        workgroups in each dimension; their ids begin at `start`
    scratch_base  GPU virtual address of the scratch of all waves
    tmpring       COMPUTE_TMPRING_SIZE
    """

    entry: int
    rsrc1: int
    rsrc2: int
    rsrc3: int
    user_data: tuple[int, ...]
    threads: tuple[int, int, int]
    groups: tuple[int, int, int]
    start: tuple[int, int, int] = (0, 0, 0)
    scratch_base: int = 0
    tmpring: int = 0
    wave32: bool = True


@dataclass(frozen=True)
class Cost:
    """What a dispatch did: instructions times active lanes, bytes moved by lanes, waves."""

    lane_instructions: int
    memory_bytes: int
    waves: int


class ShaderFault(Exception):
    """A dispatch that could not be finished.

    kind     "illegal instruction", "trap", "hang", "memory violation" or "unsupported dispatch"
    address  GPU virtual address of the instruction, where one is to blame
    words    its dwords
    wave     which wave of which workgroup (`group`, counted in the order of dispatch)
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        address: int = 0,
        words: tuple[int, ...] = (),
        wave: int = 0,
        group: int = 0,
    ) -> None:
        where = f" at {address:#x}" if address else ""
        super().__init__(f"{kind}{where}: {detail} (workgroup {group}, wave {wave})")
        self.kind = kind
        self.detail = detail
        self.address = address
        self.words = words
        self.wave = wave
        self.group = group


@dataclass(frozen=True)
class _Program:
    """Translated code: the bytes it was made from, as (offset from the entry, bytes)."""

    pieces: tuple[tuple[int, bytes], ...]
    function: int


class Shaders:
    """Runs dispatches of one card.

    gfx      the card's instruction set, "gfx1100" and its like
    cache    folder that keeps host code between processes, or None
    threads  host threads that run workgroups
    budget   lane instructions after which a wave counts as hung

    One dispatch at a time. Raises UnsupportedCard for another generation than gfx11.
    """

    def __init__(
        self, gfx: str, tlb: Tlb, cache: Path | None, threads: int, budget: int = BUDGET
    ) -> None:
        if not gfx.startswith(_GENERATION):
            raise UnsupportedCard(
                f"there is no translator for the machine code of {gfx}",
                cause=f"software cards execute {_GENERATION} code",
                next="exosuit softcard gfx1100",
            )
        self._tlb = tlb
        self._code = HostCode(cache)
        self._threads = max(threads, 1)
        self._budget = budget
        self._programs: dict[tuple[int, FloatMode], _Program] = {}
        self._by_hash: dict[str, int] = {}
        self._workers: list[Worker] = []
        self._job = Job()
        self._failure: BaseException | None = None
        self._spare = aligned((PAGE,))
        self._walk = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32)(self._miss)

    def run(self, dispatch: Dispatch) -> Cost:
        """Run a dispatch to its end. Raises ShaderFault, and what `tlb.miss` raises."""
        _check(dispatch)
        program = self._program(dispatch)
        items, masks = work_items(dispatch.threads)
        waves, groups = len(masks), int(np.prod(dispatch.groups, dtype=object))
        if groups == 0:
            return Cost(0, 0, 0)
        self._fill_job(dispatch, program, items, masks, groups)
        workers = self._prepared(dispatch, waves, min(self._threads, groups))
        self._failure = None
        if len(workers) == 1:
            self._run_groups(ctypes.byref(self._job), ctypes.byref(workers[0].record))
        else:
            turns = [
                self._pool.submit(
                    self._run_groups, ctypes.byref(self._job), ctypes.byref(worker.record)
                )
                for worker in workers
            ]
            for turn in turns:
                turn.result()
        if self._failure is not None:
            raise self._failure
        for worker in workers:
            if worker.record.fault:
                raise self._fault(dispatch, worker)
        return Cost(
            sum(worker.record.instructions for worker in workers),
            sum(worker.record.memory_bytes for worker in workers),
            groups * waves,
        )

    def warm_up(self) -> None:
        """Make now what every dispatch needs and the first would otherwise wait for."""
        _ = self._routine_table, self._run_groups

    # Preparation --------------------------------------------------------------------------

    def _fill_job(
        self,
        dispatch: Dispatch,
        program: _Program,
        items: NDArray[np.uint32],
        masks: NDArray[np.uint32],
        groups: int,
    ) -> None:
        rsrc2, job = Rsrc2(dispatch.rsrc2), self._job
        job.wave = program.function
        job.counter = job.stop = 0
        job.groups = groups
        job.wide, job.high = dispatch.groups[:2]
        job.start_x, job.start_y, job.start_z = dispatch.start
        job.waves = len(masks)
        job.slice = _SLICE
        job.budget = self._budget
        job.items, job.masks = items.ctypes.data, masks.ctypes.data
        self._held = items, masks
        job.user_data[:] = (*dispatch.user_data, *[0] * 16)[:16]
        following = rsrc2.user_sgpr
        places: list[int] = []
        for enabled in (rsrc2.tgid_x_en, rsrc2.tgid_y_en, rsrc2.tgid_z_en):
            places.append(state.scalar_offset(following) if enabled else _SPARE_PLACE)
            following += enabled
        job.place_x, job.place_y, job.place_z = places

    def _prepared(self, dispatch: Dispatch, waves: int, count: int) -> list[Worker]:
        while len(self._workers) < count:
            self._workers.append(Worker())
        local_bytes = Rsrc2(dispatch.rsrc2).lds_size * LDS_GRANULE
        facts = {
            state.ROUTINES: self._routine_table.ctypes.data,
            state.TLB_ENTRIES: self._tlb.entries.ctypes.data,
            state.TLB_BASE: self._tlb.base,
            state.TLB_PAGES: self._tlb.pages,
            state.TLB_MISS: ctypes.cast(self._walk, ctypes.c_void_p).value or 0,
            state.LOCAL_BYTES: local_bytes,
            state.ENTRY: dispatch.entry,
        }
        wave_bytes = TmpringSize(dispatch.tmpring).wavesize * SCRATCH_GRANULE
        for number, worker in enumerate(self._workers[:count]):
            worker.prepare(facts)
            worker.set_scratch(dispatch.scratch_base + number * waves * wave_bytes, wave_bytes)
        return self._workers[:count]

    @cached_property
    def _routine_table(self) -> NDArray[np.uint64]:
        names = routines.names()
        ir = routines.module_text()
        key = hashlib.sha256(ir.encode()).hexdigest()
        return np.array(self._code.functions(key, ir, *names), np.uint64)

    @cached_property
    def _run_groups(self) -> Callable[..., None]:
        ir = groups_ir()
        key = hashlib.sha256(ir.encode()).hexdigest()
        (address,) = self._code.functions(key, ir, "run_groups")
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="shader")

    # Code ---------------------------------------------------------------------------------

    def _program(self, dispatch: Dispatch) -> _Program:
        mode = float_mode(dispatch.rsrc1)
        key = (dispatch.entry, mode)
        known = self._programs.get(key)
        if known is not None and all(
            self._read(dispatch.entry + offset, len(data)) == data for offset, data in known.pieces
        ):
            return known
        dwords: dict[int, int] = {}

        def fetch(offset: int) -> int:
            if offset not in dwords:
                data = self._read(dispatch.entry + offset, 4)
                dwords[offset] = int.from_bytes(data, "little")
            return dwords[offset]

        blocks = decode(fetch)
        pieces = _pieces(dwords)
        digest = hashlib.sha256(f"{_sources_hash()} {mode} {pieces}".encode()).hexdigest()
        if digest not in self._by_hash:
            ir = partial(translate.translate, blocks, mode)
            (self._by_hash[digest],) = self._code.functions(digest, ir, "wave")
        program = _Program(pieces, self._by_hash[digest])
        self._programs[key] = program
        return program

    def _read(self, address: int, size: int) -> bytes:
        """Code, through the TLB."""
        found = bytearray()
        while size:
            piece = min(size, PAGE - address % PAGE)
            page = (address - self._tlb.base) // PAGE
            entry = int(self._tlb.entries[page]) if 0 <= page < self._tlb.pages else 0
            if not entry & EXECUTE:
                entry = self._tlb.miss(address, EXECUTE)
            found += ctypes.string_at((entry & -PAGE) + address % PAGE, piece)
            address, size = address + piece, size - piece
        return bytes(found)

    # What goes wrong ----------------------------------------------------------------------

    def _miss(self, address: int, access: int) -> int:
        """Called by translated code, on any thread; an error ends the dispatch."""
        try:
            return self._tlb.miss(address, access)
        except BaseException as error:
            self._failure = self._failure or error
            self._job.stop = 1
            return self._spare.ctypes.data | READ | WRITE | EXECUTE

    def _fault(self, dispatch: Dispatch, worker: Worker) -> ShaderFault:
        kind = Kind(worker.record.fault)
        wave, group = worker.record.fault_wave, worker.record.fault_group
        offset = worker.fault_address(wave)

        def fetch(at: int) -> int:
            return int.from_bytes(self._read(dispatch.entry + at, 4), "little")

        made = decode_one(fetch, offset)
        detail = {
            Kind.HANG: f"a wave ran {self._budget:,} instructions without an end",
        }.get(kind, str(made))
        return ShaderFault(_KINDS[kind], detail, dispatch.entry + offset, made.dwords, wave, group)


@cache
def _sources_hash() -> str:
    return sources_hash(Path(__file__).parent)


def float_mode(rsrc1: int) -> FloatMode:
    """What a program wants of floats. Raises ShaderFault for a rounding other than to even."""
    fields = Rsrc1(rsrc1)
    mode = fields.float_mode
    if mode & _ROUNDING:
        raise ShaderFault("unsupported dispatch", f"FLOAT_MODE {mode:#x} rounds not to even")
    return FloatMode(
        flush_single=mode >> 4 & 3 == 0,
        flush_other=mode >> 6 & 3 == 0,
        ieee=bool(fields.ieee_mode),
        clamp_nan=bool(fields.dx10_clamp),
    )


def _check(dispatch: Dispatch) -> None:
    rsrc2 = Rsrc2(dispatch.rsrc2)
    count = int(np.prod(dispatch.threads, dtype=object))
    reason = ""
    if not dispatch.wave32:
        reason = "waves of 64 lanes"
    elif not 1 <= count <= MOST_WAVES * WAVE or min(dispatch.threads) < 1:
        reason = f"{count} work-items in a workgroup"
    elif rsrc2.lds_size * LDS_GRANULE > LOCAL_MOST:
        reason = f"{rsrc2.lds_size * LDS_GRANULE} bytes of local memory"
    elif rsrc2.tg_size_en:
        reason = "TG_SIZE_EN"
    if reason:
        raise ShaderFault("unsupported dispatch", reason, dispatch.entry)


def _pieces(dwords: dict[int, int]) -> tuple[tuple[int, bytes], ...]:
    """Runs of neighbouring dwords as bytes."""
    found: list[tuple[int, bytearray]] = []
    for offset in sorted(dwords):
        data = dwords[offset].to_bytes(4, "little")
        if found and found[-1][0] + len(found[-1][1]) == offset:
            found[-1][1].extend(data)
        else:
            found.append((offset, bytearray(data)))
    return tuple((offset, bytes(data)) for offset, data in found)
