"""The workgroups of a dispatch on the host's threads: the memory they share with `groups.ll`.

A job is what all threads of a dispatch look at; a worker is what one of them owns: the states of
the waves of one group, and the group's local memory.
"""

from __future__ import annotations

import ctypes
import re
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.translate import Kind
from exosuit.softcard.translation.host import aligned
from exosuit.softcard.translation.ir import WAVE

MOST_WAVES = 32
"""Waves of one workgroup: 1,024 work-items."""
LOCAL_MOST = 64 << 10
"""Bytes of local memory that one workgroup may have."""


class Job(ctypes.Structure):
    """One dispatch; places are byte offsets in a wave's state."""

    _fields_ = (
        ("wave", ctypes.c_uint64),
        ("counter", ctypes.c_uint64),
        ("stop", ctypes.c_uint64),
        ("groups", ctypes.c_uint64),
        ("wide", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("start_x", ctypes.c_uint64),
        ("start_y", ctypes.c_uint64),
        ("start_z", ctypes.c_uint64),
        ("waves", ctypes.c_uint64),
        ("slice", ctypes.c_uint64),
        ("budget", ctypes.c_uint64),
        ("place_x", ctypes.c_uint64),
        ("place_y", ctypes.c_uint64),
        ("place_z", ctypes.c_uint64),
        ("items", ctypes.c_uint64),
        ("masks", ctypes.c_uint64),
        ("user_data", ctypes.c_uint32 * 16),
    )


class WorkerRecord(ctypes.Structure):
    """What one thread tells; `fault` is a `Kind`, 0 if all went well."""

    _fields_ = (
        ("states", ctypes.c_uint64),
        ("kinds", ctypes.c_uint64),
        ("fault", ctypes.c_uint64),
        ("fault_group", ctypes.c_uint64),
        ("fault_wave", ctypes.c_uint64),
        ("instructions", ctypes.c_uint64),
        ("memory_bytes", ctypes.c_uint64),
    )


class Worker:
    """The memory of one thread; `facts` are the same for every wave of a dispatch."""

    def __init__(self) -> None:
        self.states = aligned((MOST_WAVES, state.STATE_BYTES))
        self.local = aligned((LOCAL_MOST,))
        self.kinds = np.zeros(MOST_WAVES, np.uint64)
        self.record = WorkerRecord(self.states.ctypes.data, self.kinds.ctypes.data)

    def prepare(self, facts: dict[int, int]) -> None:
        """Forget the last dispatch; write 64-bit facts at their places into every state."""
        self.record.fault = self.record.instructions = self.record.memory_bytes = 0
        words = self.states.view(np.uint64)
        words[:, state.LOCAL // 8] = self.local.ctypes.data
        for place, value in facts.items():
            words[:, place // 8] = value

    def set_scratch(self, first: int, step: int) -> None:
        """Where each wave's scratch lies."""
        bases = first + step * np.arange(MOST_WAVES, dtype=np.uint64)
        self.states.view(np.uint64)[:, state.SCRATCH // 8] = bases

    def fault_address(self, wave: int) -> int:
        return int(self.states[wave].view(np.uint32)[state.FAULT_ADDRESS // 4])


def work_items(threads: tuple[int, int, int]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """For every wave of a group v0 of its lanes (x, y, z packed in tens of bits) and its mask."""
    wide, high, deep = threads
    count = wide * high * deep
    waves = -(-count // WAVE)
    flat = np.arange(waves * WAVE, dtype=np.uint32)
    x, y, z = flat % wide, flat // wide % high, flat // (wide * high)
    items = (x | y << 10 | z << 20).astype(np.uint32).reshape(waves, WAVE)
    on = (flat < count).reshape(waves, WAVE)
    masks = (on.astype(np.uint64) << np.arange(WAVE, dtype=np.uint64)).sum(1).astype(np.uint32)
    return items, masks


def groups_ir() -> str:
    """`run_groups(job, worker)` with the layouts filled in."""
    text = files("exosuit.softcard.amd.isa").joinpath("groups.ll").read_text("utf-8")
    values = {
        **{f"job.{name}": getattr(Job, name).offset for name, *_ in Job._fields_},
        **{
            f"worker.{name}": getattr(WorkerRecord, name).offset
            for name, *_ in WorkerRecord._fields_
        },
        "state.STRIDE": state.STATE_BYTES,
        "state.EXEC": state.scalar_offset(state.EXEC),
        "state.VECTORS": state.VECTORS,
        "state.INSTRUCTIONS": state.INSTRUCTIONS,
        "state.MEMORY_BYTES": state.MEMORY_BYTES,
        "state.PAUSE_AT": state.PAUSE_AT,
        "state.FAULT_ADDRESS": state.FAULT_ADDRESS,
        "kind.hang": int(Kind.HANG),
    }
    return re.sub(r"\{([\w.]+)\}", lambda match: str(values[match[1]]), text)
