"""A bench for the engines: flat memory at GPU addresses, channels, pushbuffers made by hand."""

from __future__ import annotations

import struct

import numpy as np

from exosuit.silicon.nvidia.bank import STACK_TOP, bank0
from exosuit.silicon.nvidia.classes import ComputeClass, CopyClass, GpfifoClass
from exosuit.silicon.nvidia.compute import LOCAL_WINDOW, SHARED_WINDOW, Compute, PcasAction
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.grid import Bank, Grid, Release
from exosuit.silicon.nvidia.limits import SYSTEM_SHARED, limits, sass_version
from exosuit.silicon.nvidia.push import COMPUTE, COPY, HOST, Host, entry, methods, wide
from exosuit.silicon.nvidia.qmd import layout
from exosuit.softcard.card import Refused
from exosuit.softcard.nvidia.executor.channel import ChannelSetup
from exosuit.softcard.nvidia.executor.memory import MemoryFault
from exosuit.softcard.nvidia.executor.runlist import Executor
from exosuit.softcard.nvidia.executor.shape import Shape
from exosuit.softcard.nvidia.image import MARK
from exosuit.softcard.nvidia.ptx.grid import Window
from exosuit.softcard.timing import Meter, find_model
from exosuit.units import MiB, round_up

BASE = 0x10_0000_0000
SIZE = 16 * MiB
HOST_FROM = BASE + 12 * MiB
"""From here on memory counts as the host's."""
RING, PUSH, QMDS, BANKS, CODE, DATA, SCRATCH = (
    BASE + offset for offset in (0, 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x10_0000, 0x40_0000)
)
FLAG = HOST_FROM + 0x100
ENTRIES = 64

SHAPES = {
    86: Shape(86, 0x806, 2, 2, 2, 8, 1695, 936e9),
    89: Shape(89, 0x809, 2, 2, 2, 8, 2520, 1008e9),
    90: Shape(90, 0x900, 2, 2, 2, 8, 1755, 3350e9),
    120: Shape(120, 0xA04, 2, 2, 2, 8, 2407, 1792e9),
}
CLASSES = {
    86: (GpfifoClass.AMPERE_A, ComputeClass.AMPERE_B, CopyClass.AMPERE_B),
    89: (GpfifoClass.AMPERE_A, ComputeClass.ADA_A, CopyClass.AMPERE_B),
    90: (GpfifoClass.HOPPER_A, ComputeClass.HOPPER_A, CopyClass.HOPPER_A),
    120: (GpfifoClass.BLACKWELL_B, ComputeClass.BLACKWELL_B, CopyClass.BLACKWELL_B),
}
ADD_ONE = """.version 8.8
.target sm_80
.address_size 64
.visible .entry add_one(.param .u64 .ptr .global .align 4 a, .param .u64 b)
.reqntid 64, 1, 1
{
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
ld.param.b64 %rd0, [a];
ld.param.b64 %rd1, [b];
mov.u32 %r0, %tid.x;
mov.u32 %r1, %ctaid.x;
mov.u32 %r2, %ntid.x;
mad.lo.s32 %r0, %r1, %r2, %r0;
mul.wide.u32 %rd2, %r0, 4;
add.s64 %rd2, %rd0, %rd2;
ld.global.b32 %r3, [%rd2];
cvt.u32.u64 %r4, %rd1;
add.s32 %r3, %r3, %r4;
st.global.b32 [%rd2], %r3;
ret;
}
"""


class FlatMemory:
    """Implements `GpuMemory` over one array."""

    def __init__(self) -> None:
        self.bytes = np.zeros(SIZE, np.uint8)
        self._windows = [Window(BASE, SIZE, self.bytes.ctypes.data)]

    def read(self, address: int, size: int) -> bytes:
        return self._at(address, size, False).tobytes()

    def write(self, address: int, data: bytes) -> None:
        self._at(address, len(data), True)[:] = np.frombuffer(data, np.uint8)

    def windows(self) -> list[Window]:
        return self._windows

    def host_bytes(self, address: int, size: int) -> int:
        return size if address >= HOST_FROM else 0

    def _at(self, address: int, size: int, write: bool) -> np.ndarray:
        start = address - BASE
        if start < 0 or start + size > SIZE:
            raise MemoryFault(address, write, "nothing is mapped")
        return self.bytes[start : start + size]


class Userd:
    def __init__(self) -> None:
        self.words = {}

    def read32(self, offset: int) -> int:
        return self.words.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        self.words[offset] = value


class Bench:
    """Engines of one sm, with a compute channel 1 and a copy channel 2."""

    def __init__(self, sm: int = 86, strict: bool = True, late: bool = False, **options) -> None:
        self.sm, self.strict = sm, strict
        self.memory = FlatMemory()
        self.notes: list[str] = []
        self.faults = []
        self.meter = Meter(find_model("tb4"))
        self.executor = Executor(
            SHAPES[sm], self.meter, refuse=self.refuse, faulted=self.faults.append, threads=1,
            late=late, **options,
        )  # fmt: skip
        gpfifo, self.compute_class, copy = CLASSES[sm]
        self.setups = {
            number: ChannelSetup(
                number, 7, RING + 0x1000 * number, ENTRIES, Userd(), self.memory, gpfifo,
                {self.compute_class, copy}, is_enabled=True,
            )
            for number in (1, 2)
        }  # fmt: skip
        for setup in self.setups.values():
            self.executor.add(setup)
        self.put = {1: 0, 2: 0}
        self.pushed = PUSH
        self.code = {}
        self.begin_compute = methods(COMPUTE, Compute.SET_OBJECT, self.compute_class)
        self.begin_compute += self.windows()
        self.begin_copy = methods(COPY, Copy.SET_OBJECT, copy)

    def refuse(self, what: str) -> None:
        self.notes.append(what)
        if self.strict:
            raise Refused(what, cause="it is strict", next="look")

    # Submitting.

    def push(self, channel: int, *packets: bytes) -> None:
        """Put packets into one pushbuffer and its entry into the ring; no doorbell."""
        data = b"".join(packets)
        self.memory.write(self.pushed, data)
        slot = self.setups[channel].ring + 8 * self.put[channel]
        self.memory.write(slot, int(entry(self.pushed, len(data))).to_bytes(8, "little"))
        self.pushed += round_up(len(data), 64)
        self.put[channel] = (self.put[channel] + 1) % ENTRIES

    def ring(self, channel: int) -> None:
        self.setups[channel].userd.write32(0x8C, self.put[channel])
        self.executor.ring_doorbell(channel)

    def submit(self, channel: int, *packets: bytes) -> bool:
        self.push(channel, *packets)
        self.ring(channel)
        return self.executor.run()

    # Packets.

    def windows(self, local: int = LOCAL_WINDOW, shared: int = SHARED_WINDOW) -> bytes:
        return methods(COMPUTE, Compute.SET_SHADER_LOCAL_MEMORY_WINDOW_A, *wide(local)) + methods(
            COMPUTE, Compute.SET_SHADER_SHARED_MEMORY_WINDOW_A, *wide(shared)
        )

    def launch(self, qmd: int, action: PcasAction = PcasAction.PREFETCH_SCHEDULE) -> bytes:
        return methods(COMPUTE, Compute.SEND_PCAS_A, qmd >> 8) + methods(
            COMPUTE, Compute.SEND_SIGNALING_PCAS2_B, action
        )

    def semaphore(self, address: int, payload: int, execute: int) -> bytes:
        low, high = address & 0xFFFF_FFFF, address >> 32
        return methods(
            HOST, Host.SEM_ADDR_LO, low, high, payload & 0xFFFF_FFFF, payload >> 32, execute
        )

    # Grids.

    def program(self, text: str = ADD_ONE, name: str = "add_one", at: int = CODE) -> int:
        self.memory.write(at, MARK + name.encode() + b"\n" + text.encode() + b"\0")
        return at

    def grid(self, *arguments: int, number: int = 0, dependent=None, releases=(), **changes) -> int:
        """A QMD with bank 0 of these arguments; its address."""
        sm = self.sm
        facts = {
            "program": CODE, "code_bytes": 0x800, "groups": (2, 1, 1), "lanes": (64, 1, 1),
            "registers": 32, "barriers": 1, "shared_bytes": SYSTEM_SHARED,
            "shared_configs": (8, 8, limits(sm).shared_configs[-1]), "local_bytes": 0,
            "sass_version": sass_version(SHAPES[sm].sm_version), "releases": releases,
            "dependent": dependent,
        } | changes  # fmt: skip
        at = BANKS + 0x1000 * number
        content = self.bank(*arguments, groups=facts["groups"], lanes=facts["lanes"])
        self.memory.write(at, content)
        facts.setdefault("banks", {0: Bank(at, len(content), invalidate=True)})
        qmd = QMDS + 0x200 * number
        self.memory.write(qmd, layout(self.compute_class).encode_grid(Grid(**facts)))
        return qmd

    def bank(self, *arguments: int, groups=(2, 1, 1), lanes=(64, 1, 1), **changes) -> bytes:
        names = ("block_x", "block_y", "block_z", "grid_x", "grid_y", "grid_z")
        words = dict(zip(names, (*lanes, *groups), strict=True)) | {
            "shared_window": SHARED_WINDOW, "local_window": LOCAL_WINDOW,
            "stack_pointer": STACK_TOP,
        } | changes  # fmt: skip
        kind = bank0(self.sm)
        head = bytearray(kind.ARGUMENTS)
        kind(head).assign(**words)
        return bytes(head) + struct.pack(f"<{len(arguments)}Q", *arguments)

    def flip(self, qmd: int, **fields: int) -> None:
        """Change raw fields of a QMD in memory."""
        kind = layout(self.compute_class)
        number = kind.decode(self.memory.read(qmd, kind.WIDTH // 8))
        self.memory.write(qmd, number.replace(**fields).encode())

    def words(self, address: int, count: int, dtype=np.uint32) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        return np.frombuffer(self.memory.read(address, size), dtype)


__all__ = ["FLAG", "Bench", "Release"]
