"""The executor's host side: threads, tables in its layout, and the JIT that holds the code.

The code itself is `executor.ll`; read that first. Each worker is one Python thread that makes a
single foreign call and stays in it, outside the interpreter's lock, until the executor closes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from exosuit.driver.device import Launch

_CONTROL_BYTES = 512
_ACTIVE, _SLEEPERS, _MUTEX, _CONDITION = 128, 192, 256, 384
_COUNTER_BYTES = 128
# A few milliseconds, clearly longer than the host needs between two tokens: a worker that has gone
# to sleep wakes on its caller's core, and both then share it for a while.
_SPIN_TURNS = 1 << 18
# More chunks than threads, so that a thread that lost its core leaves little behind.
_CHUNKS_PER_THREAD = 4

_PAUSE = {
    "x86_64": ("call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"),
    "aarch64": (
        "call void @llvm.aarch64.hint(i32 1)",
        "declare void @llvm.aarch64.hint(i32 immarg)",
    ),
}


class Executor:
    """`threads` threads, the caller's among them, that replay tables together.

    Use by one thread at a time. `close` ends the workers; it is idempotent. The workers stay in
    the process that made them: a child that is forked from it replays alone.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._code = CodeMemory()
        functions = self._code.add_ir(_executor_ir())
        pointer = ctypes.c_void_p
        self._replay = ctypes.CFUNCTYPE(None, pointer, pointer)(functions("replay"))
        self._retire = ctypes.CFUNCTYPE(None, pointer, pointer)(functions("retire"))
        stop = ctypes.CFUNCTYPE(None, pointer)(functions("stop"))
        worker = ctypes.CFUNCTYPE(None, pointer)(functions("worker"))
        self._control, self.control = aligned_zeros(_CONTROL_BYTES)
        self._begin()
        # The threads hold what their foreign call runs on, so neither code nor control can be
        # collected under them; and an executor that is dropped stops them.
        held = (self._code, self._control)
        self._workers = [
            threading.Thread(
                target=_work, args=(worker, self.control, held), daemon=True, name=f"cpu-{k}"
            )
            for k in range(1, threads)
        ]
        for thread in self._workers:
            thread.start()
        self._finalizer = weakref.finalize(
            self, _stop, self._process, stop, self.control, held, self._workers
        )

    def load(self, code: bytes, entry: str) -> int:
        """Put an object into executable memory; the address of its entry."""
        return self._code.add_object(code)(entry)

    def replay(self, table: Table) -> None:
        self._check_process()
        self._replay(self.control, table.address)

    def retire(self, table: Table) -> None:
        """Return when no worker can still be reading `table`."""
        self._check_process()
        self._retire(self.control, table.address)

    def close(self) -> None:
        self._finalizer()

    def _check_process(self) -> None:
        """After a fork, forget what workers were doing that are not here."""
        if self._process != os.getpid():
            self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._control[_ACTIVE // 8] = 0
        self._control[_SLEEPERS // 8] = 0
        library, pointer = ctypes.CDLL(None), ctypes.c_void_p
        library.pthread_mutex_init(pointer(self.control + _MUTEX), None)
        library.pthread_cond_init(pointer(self.control + _CONDITION), None)


def _work(worker: Callable[[int], None], control: int, held: tuple[object, ...]) -> None:
    _ = held
    worker(control)


def _stop(
    process: int,
    stop: Callable[[int], None],
    control: int,
    held: tuple[object, ...],
    workers: list[threading.Thread],
) -> None:
    _ = held
    if process != os.getpid():
        return  # the workers are not in this process
    stop(control)
    for thread in workers:
        thread.join()


class Table:
    """Launches in the executor's layout: phases between fences, their parts, their counters."""

    def __init__(self, launches: Sequence[Launch], executor: Executor, entries: list[int]) -> None:
        parts: list[tuple[int, int, int, int]] = []
        phases: list[list[int]] = []
        blocks = [launch.argument_block() for launch in launches]
        self._arguments, address = aligned_zeros(sum(len(b) for b in blocks) or 8)
        self._arguments.view(np.uint8)[: sum(len(b) for b in blocks)] = np.frombuffer(
            b"".join(blocks), np.uint8
        )
        limit = 1 if executor.threads == 1 else executor.threads * _CHUNKS_PER_THREAD
        for launch, entry, block in zip(launches, entries, blocks, strict=True):
            chunks = min(launch.groups, limit)
            if launch.fence or not phases:
                phases.append([len(parts), 0, 0])
            parts.append((entry, address, launch.groups, chunks))
            phases[-1][1] += 1
            phases[-1][2] += chunks
            address += len(block)
        self._parts = np.array(parts, np.int64)
        self._phases = np.array(phases, np.int64)
        self._counters, counters = aligned_zeros(_COUNTER_BYTES * len(phases))
        self._header, self.address = aligned_zeros(64)
        self._header[:5] = (
            0, len(phases), self._phases.ctypes.data, self._parts.ctypes.data, counters,
        )  # fmt: skip


class CodeMemory:
    """Executable memory of this process, filled with objects; lives as long as it is held."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._engines: list[Any] = []

    def add_ir(self, text: str) -> Any:
        return self._finish(self._engine(text))

    def add_object(self, code: bytes) -> Any:
        engine = self._engine("")
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        return self._finish(engine)

    def _engine(self, text: str) -> Any:
        # An engine takes possession of its module and of its target machine.
        machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
        return llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)

    def _finish(self, engine: Any) -> Any:
        engine.finalize_object()
        self._engines.append(engine)
        return engine.get_function_address


def aligned_zeros(size_bytes: int, align: int = 128) -> tuple[NDArray[np.int64], int]:
    """Zeroed words and their address, which is a multiple of `align`."""
    whole = np.zeros(size_bytes + align, np.uint8)
    skip = -whole.ctypes.data % align
    words = whole[skip : skip + size_bytes // 8 * 8].view(np.int64)
    return words, words.ctypes.data


def _executor_ir() -> str:
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    pause, declaration = _PAUSE[machine]
    text = (Path(__file__).parent / "executor.ll").read_text()
    for name, value in (
        ("{pause_declaration}", declaration),
        ("{pause}", pause),
        ("{spin_turns}", str(_SPIN_TURNS)),
    ):
        text = text.replace(name, value)
    return text
