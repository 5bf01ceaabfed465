"""The cpu device: the host's memory, its cores, and programs compiled for its instruction set."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exosuit.driver.cpu.executor import Executor, Table
from exosuit.driver.device import Buffer, Launch, Region
from exosuit.errors import DoesNotFit, KernelError
from exosuit.program import Program
from exosuit.units import MiB, human_bytes

# Below this a huge page would be mostly empty.
_HUGE_FROM_BYTES = 4 * MiB


class CpuDevice:
    """The host. Implements `Device`.

    threads  how many cores work, the caller's included; the default is all that the process may
             use (physical ones where the system tells them apart)
    """

    name = "cpu"

    def __init__(self, target: str, threads: int | None = None) -> None:
        self.target = target
        self.threads = threads or default_threads()
        self._executor = Executor(self.threads)
        self._entries: dict[bytes, int] = {}

    @property
    def memory_bytes(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    @property
    def parallel_groups(self) -> int:
        return self.threads

    def allocate(
        self, size_bytes: int, name: str, sparse: bool = False, host: bool = False
    ) -> Buffer:
        try:
            # Private: Linux gives huge pages to shared memory only where an administrator said so.
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            memory = mmap.mmap(-1, max(size_bytes, 1), flags=flags)
        except (OSError, ValueError, OverflowError) as error:
            raise DoesNotFit(
                f"{human_bytes(size_bytes)} for {name} cannot be had",
                cause=f"the system refuses: {error}",
                next="close other programs, or use a smaller model or --context",
            ) from error
        if not sparse and size_bytes >= _HUGE_FROM_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without transparent huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(memory, np.uint8)
        return Buffer(name, array.ctypes.data, size_bytes, owner=array)

    def free(self, buffer: Buffer) -> None:
        buffer.owner = None
        buffer.size_bytes = 0

    def host_view(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        raw: NDArray[np.uint8] = region.buffer.owner
        return raw[region.offset : region.offset + region.size_bytes].view(dtype)

    def copy_in(self, region: Region, data: NDArray[Any]) -> None:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self.host_view(region, np.uint8)[: flat.size] = flat

    def copy_out(self, region: Region, dtype: DTypeLike) -> NDArray[Any]:
        return self.host_view(region, dtype).copy()

    def import_host(self, data: NDArray[np.uint8], name: str) -> Buffer:
        return Buffer(name, data.ctypes.data, data.size, owner=data)

    def prepare(self, launches: Sequence[Launch]) -> CpuReplay:
        return CpuReplay(self._executor, launches, [self._entry(x.program) for x in launches])

    def close(self) -> None:
        self._executor.close()

    def _entry(self, program: Program) -> int:
        if program.target != self.target:
            raise KernelError(
                f"program {program.name!r} is for {program.target}, this device is {self.target}",
                cause="it was compiled for another machine",
                next="compile it for this device's target",
            )
        entry = self._entries.get(program.code)
        if entry is None:
            entry = self._executor.load(program.code, program.entry)
            self._entries[program.code] = entry
        return entry


class CpuReplay:
    """A prepared table. Keeps the buffers of its launches alive.

    A worker that is late may still look at the table, so one that is dropped is retired too.
    """

    def __init__(self, executor: Executor, launches: Sequence[Launch], entries: list[int]) -> None:
        self._executor = executor
        self._launches = tuple(launches)
        self._table = Table(launches, executor, entries)
        self._finalizer = weakref.finalize(self, executor.retire, self._table)

    def run(self) -> None:
        assert self._finalizer.alive, "replayed after close"
        self._executor.replay(self._table)

    def close(self) -> None:
        self._finalizer()


def default_threads() -> int:
    """Cores this process may use: one per physical core where Linux tells them apart."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS
        return _performance_cores() or os.cpu_count() or 1
    siblings: set[str] = set()
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                siblings.add(file.read())
        except OSError:
            return len(allowed)
    return len(siblings)


def _performance_cores() -> int | None:
    """Performance cores of an Apple chip; efficiency cores would slow every phase down."""
    count, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    name = b"hw.perflevel0.physicalcpu"
    try:
        status = ctypes.CDLL(None).sysctlbyname(
            name, ctypes.byref(count), ctypes.byref(size), None, 0
        )
    except AttributeError:
        return None
    return count.value if status == 0 and count.value > 0 else None
