"""Launches of PTX: text is translated once, its groups run on the host's threads.

`Model` is the compute part of a card: it knows no buffers, only windows of addresses that are the
host's memory. One launch at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.softcard.nvidia.ptx import state, translate
from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.parse import Entry, parse
from exosuit.softcard.nvidia.ptx.state import WARP, Layout
from exosuit.softcard.translation.host import HostCode, aligned, sources_hash
from exosuit.units import round_up

MOST_WARPS = 32
SHARED_MOST = 228 << 10
"""Bytes of shared memory that one group may have; what a card grants depends on its kind."""
SHARED_GRANULE = 128
"""Groups get shared memory in such pieces; compilers may read to the end of the last 16 bytes."""
BUDGET = 1 << 28
"""Blocks that a warp may run in one launch: tens of seconds of the host."""
MOST_IN_ALL = 1 << 25
"""Warps of one launch: even of the shortest programs seconds of the host."""


@dataclass(frozen=True)
class Window:
    """Memory that programs reach.

    start  the first address, as the card has it
    host   address of the same byte in this process
    """

    start: int
    size_bytes: int
    host: int


@dataclass(frozen=True)
class Cost:
    """What a launch did: instructions times lanes, and bytes of global memory that lanes moved."""

    lane_instructions: int
    memory_bytes: int


@dataclass(frozen=True)
class Function:
    """One kernel, ready to be launched."""

    entry: Entry
    layout: Layout
    address: int


class _Job(ctypes.Structure):
    _fields_ = (
        ("warp", ctypes.c_uint64),
        ("counter", ctypes.c_uint64),
        ("stop", ctypes.c_uint64),
        ("groups", ctypes.c_uint64),
        ("wide", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("warps", ctypes.c_uint64),
        ("budget", ctypes.c_uint64),
        ("masks", ctypes.c_uint64),
        ("stride", ctypes.c_uint64),
        ("shared_bytes", ctypes.c_uint64),
    )


class _Record(ctypes.Structure):
    """What one thread works with, and which warp failed if one did."""

    _fields_ = (
        ("states", ctypes.c_uint64),
        ("resumes", ctypes.c_uint64),
        ("shared", ctypes.c_uint64),
        ("failed", ctypes.c_uint64),
        ("fault_group", ctypes.c_uint64),
        ("fault_warp", ctypes.c_uint64),
    )


class _Worker:
    """The memory of one thread: the states of the warps of one group, and what the group has."""

    def __init__(self) -> None:
        self.shared = aligned((round_up(SHARED_MOST, 64),))
        self.resumes = np.zeros(MOST_WARPS, np.uint64)
        self.states = self.local = aligned((64,))
        self.record = _Record()

    def prepare(self, warps: int, layout: Layout) -> None:
        self.states = aligned((warps, layout.size))
        local = WARP * layout.local
        self.local = aligned((warps, max(round_up(local, 64), 64)))
        self.local.fill(0xFF)
        self.record = _Record(
            self.states.ctypes.data, self.resumes.ctypes.data, self.shared.ctypes.data
        )
        self.set(state.SHARED, self.shared.ctypes.data)
        self.set(state.LOCAL_BYTES, local)
        words = self.states.view(np.uint64)
        words[:, state.LOCAL // 8] = self.local.ctypes.data + self.local.shape[1] * np.arange(warps)
        self.states.view(np.uint32)[:, state.WARP_NUMBER // 4] = np.arange(warps)

    def set(self, place: int, value: int) -> None:
        """Eight bytes in the state of every warp."""
        self.states.view(np.uint64)[:, place // 8] = value

    def set_words(self, place: int, values: Sequence[int]) -> None:
        words = self.states.view(np.uint32)
        words[:, place // 4 : place // 4 + len(values)] = values

    def total(self, place: int) -> int:
        """Of a count that every warp keeps."""
        return int(self.states.view(np.uint64)[:, place // 8].sum())


class Model:
    """Runs launches.

    windows  what programs may reach; may be set anew between launches
    cache    folder that keeps host code between processes, or None
    threads  host threads that run groups
    budget   blocks after which a warp counts as hung
    """

    def __init__(
        self,
        windows: Sequence[Window] = (),
        cache: Path | None = None,
        threads: int = 2,
        budget: int = BUDGET,
    ) -> None:
        self.windows = windows
        self._code = HostCode(cache)
        self._threads = max(threads, 1)
        self._budget = budget
        self._functions: dict[str, dict[str, Function]] = {}
        self._workers: list[_Worker] = []
        self._job = _Job()

    @property
    def windows(self) -> Sequence[Window]:
        return self._windows

    @windows.setter
    def windows(self, windows: Sequence[Window]) -> None:
        self._windows = windows
        rows = sorted((w.start, w.size_bytes, w.host) for w in windows)
        self._table = np.array(rows, np.uint64).reshape(-1, 3)

    def load(self, text: str | bytes) -> dict[str, Function]:
        """The kernels of a module by name. Raises PtxFault for what cannot be read."""
        if isinstance(text, bytes):
            text = text.rstrip(b"\0").decode()
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest not in self._functions:
            found: dict[str, Function] = {}
            for name, (entry, layout) in _laid_out(text).items():
                key = f"ptx {_sources_hash()} {digest} {name}"
                ir = partial(translate.translate, entry, layout)
                (address,) = self._code.functions(key, ir, "warp")
                found[name] = Function(entry, layout, address)
            self._functions[digest] = found
        return self._functions[digest]

    def run(
        self,
        function: Function,
        groups: tuple[int, int, int],
        lanes: tuple[int, int, int],
        arguments: bytes,
        shared_bytes: int = 0,
    ) -> Cost:
        """Run to the end. Raises PtxFault.

        arguments     the argument block, as the kernel's parameters lie in it
        shared_bytes  dynamic shared memory, behind what the kernel declares
        """
        shared = round_up(function.entry.shared_bytes + shared_bytes, SHARED_GRANULE)
        self._check(function.entry, lanes, groups, arguments, shared)
        count = math.prod(groups)
        if count == 0:
            return Cost(0, 0)
        block = np.frombuffer(arguments + bytes(8), np.uint8)
        if count * -(-math.prod(lanes) // WARP) > MOST_IN_ALL:
            raise PtxFault("hang", f"{function.entry.name}: {count} groups take too long here")
        ids = state.special(*lanes)
        inside = np.arange(len(ids) * WARP).reshape(-1, WARP) < int(np.prod(lanes))
        masks = np.packbits(inside, axis=1, bitorder="little").view(np.uint32).reshape(-1)
        workers = self._prepared(function, ids, min(self._threads, count))
        for worker in workers:
            worker.set(state.PARAMETERS, block.ctypes.data)
            worker.set(state.SHARED_BYTES, shared)
            worker.set(state.WINDOWS, self._table.ctypes.data)
            worker.set(state.WINDOW_COUNT, len(self._table))
            worker.set_words(state.GROUPS, groups)
            worker.set_words(state.LANES, lanes)
        self._job = _Job(
            function.address, 0, 0, count, groups[0], groups[1], len(ids), self._budget,
            masks.ctypes.data, function.layout.size, shared,
        )  # fmt: skip
        self._work(workers)
        for worker in workers:
            if worker.record.failed:
                raise self._fault(function.entry, worker)
        return Cost(
            sum(worker.total(state.DONE) for worker in workers),
            sum(worker.total(state.MOVED) for worker in workers),
        )

    def _work(self, workers: list[_Worker]) -> None:
        turns = [
            self._pool.submit(
                self._run_groups, ctypes.byref(self._job), ctypes.byref(worker.record)
            )
            for worker in workers[1:]
        ]
        self._run_groups(ctypes.byref(self._job), ctypes.byref(workers[0].record))
        for turn in turns:
            turn.result()

    def _prepared(self, function: Function, ids: NDArray[np.uint32], count: int) -> list[_Worker]:
        while len(self._workers) < count:
            self._workers.append(_Worker())
        workers = self._workers[:count]
        for worker in workers:
            worker.prepare(len(ids), function.layout)
            words = worker.states.view(np.uint32)
            first = state.SPECIAL // 4
            words[:, first : first + 3 * WARP] = ids.reshape(len(ids), -1)
        return workers

    @staticmethod
    def _check(
        entry: Entry,
        lanes: tuple[int, int, int],
        groups: tuple[int, int, int],
        arguments: bytes,
        shared: int,
    ) -> None:
        reason = ""
        if entry.group_lanes is not None and lanes != entry.group_lanes:
            reason = f"{lanes} lanes where .reqntid says {entry.group_lanes}"
        elif not 1 <= int(np.prod(lanes)) <= MOST_WARPS * WARP:
            reason = f"{lanes} lanes in a group"
        elif min(groups) < 0 or max(groups[1:]) > 65535 or groups[0] >= 1 << 31:
            reason = f"{groups} groups"
        elif len(arguments) < entry.parameter_bytes:
            reason = f"{len(arguments)} bytes of arguments for {entry.parameter_bytes}"
        elif shared > SHARED_MOST:
            reason = f"{shared} bytes of shared memory"
        if reason:
            raise PtxFault("launch", f"{entry.name}: {reason}")

    def _fault(self, entry: Entry, worker: _Worker) -> PtxFault:
        warp = worker.record.fault_warp
        words, halves = (worker.states[warp].view(t) for t in (np.uint64, np.uint32))
        kind = state.FAULTS[int(words[state.FAULT // 8])]
        line = int(halves[state.FAULT_LINE // 4])
        found = next((x for b in entry.blocks for x in b.instructions if x.line == line), None)
        made = str(found or "the end")
        address = int(words[state.FAULT_ADDRESS // 8])
        where = f" at address {address:#x}" if address else ""
        return PtxFault(
            kind,
            f"{entry.name}, line {line}: {made}{where} "
            f"(group {worker.record.fault_group}, warp {warp})",
            address,
            found is not None and found.name in ("st", "red", "atom"),
        )

    @cached_property
    def _run_groups(self) -> Callable[..., None]:
        ir = _groups_ir()
        key = hashlib.sha256(ir.encode()).hexdigest()
        (address,) = self._code.functions(f"ptx groups {key}", ir, "run_groups")
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="ptx")


@lru_cache(maxsize=256)
def _laid_out(text: str) -> dict[str, tuple[Entry, Layout]]:
    """Every kernel of a module, and where its function keeps what; never changed again."""
    return {name: (entry, translate.lay_out(entry)) for name, entry in parse(text).items()}


@cache
def _sources_hash() -> str:
    return sources_hash(Path(__file__).parent)


def _groups_ir() -> str:
    """`run_groups(job, worker)` with the layouts filled in."""
    text = files("exosuit.softcard.nvidia.ptx").joinpath("groups.ll").read_text("utf-8")
    values: dict[str, Any] = {
        **{f"job.{name}": getattr(_Job, name).offset for name, *_ in _Job._fields_},
        **{f"worker.{name}": getattr(_Record, name).offset for name, *_ in _Record._fields_},
        **{
            f"state.{name}": getattr(state, name)
            for name in ("RUNNING", "ALIVE", "GROUP", "BUDGET", "FAULT", "BARRIER")
        },
    }
    return re.sub(r"\{([\w.]+)\}", lambda match: str(values[match[1]]), text)
