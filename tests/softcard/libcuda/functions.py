"""The functions of the fake libcuda, by the names and types of the C interface.

`misuses` holds every call that a program in order would not make; a test ends with none of them.
Faults are set from outside: `sticky` is the error that a dead context gives, `fail` makes the next
calls of a function fail, `gone` takes the card off its bus, `hangs` lets no graph ever end.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.softcard.libcuda.graphs import Graph, Node, Runner
from tests.softcard.libcuda.memory import Memory

from exosuit.driver.cuda.library import FUNCTIONS, Library
from exosuit.errors import KernelError
from exosuit.silicon.nvidia.cubin import read_cubin
from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.grid import Function
from exosuit.units import GiB

_ANYTIME = {"cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"}
"""What may be called before cuInit."""
_WITHOUT_CONTEXT = _ANYTIME | {name for name in FUNCTIONS if name.startswith("cuDevice")} | {
    "cuCtxSetCurrent"
}  # fmt: skip
_NAMES = {
    1: "CUDA_ERROR_INVALID_VALUE", 2: "CUDA_ERROR_OUT_OF_MEMORY", 3: "CUDA_ERROR_NOT_INITIALIZED",
    100: "CUDA_ERROR_NO_DEVICE", 101: "CUDA_ERROR_INVALID_DEVICE", 200: "CUDA_ERROR_INVALID_IMAGE",
    201: "CUDA_ERROR_INVALID_CONTEXT", 209: "CUDA_ERROR_NO_BINARY_FOR_GPU",
    218: "CUDA_ERROR_INVALID_PTX", 222: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    400: "CUDA_ERROR_INVALID_HANDLE", 500: "CUDA_ERROR_NOT_FOUND", 600: "CUDA_ERROR_NOT_READY",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS", 716: "CUDA_ERROR_MISALIGNED_ADDRESS",
    719: "CUDA_ERROR_LAUNCH_FAILED", 802: "CUDA_ERROR_SYSTEM_NOT_READY",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", 999: "CUDA_ERROR_UNKNOWN",
}  # fmt: skip
_PTX_OF_DRIVER = {12000: (8, 0), 12080: (8, 7), 12090: (8, 8), 13000: (9, 0)}
"""The newest PTX that a driver's compiler reads."""
_FAULTS = {"memory": 700, "alignment": 716, "shared memory": 700, "launch": 701}
_MOST_GROUPS = (1 << 31) - 1
_NO_TIMING = 2


class Misuse(Exception):
    """A call that is wrong; `status` is what libcuda answers."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Stream:
    """What was asked for and has not happened."""

    pending: deque[Callable[[], None]] = field(default_factory=deque)
    asked: int = 0


@dataclass
class Event:
    timed: bool
    stream: Stream | None = None
    behind: int = 0
    happened: float = 0.0


@dataclass
class Module:
    functions: dict[str, Function]


class Libcuda:
    """The cards of one machine, all of one kind.

    sm       compute capability
    cubins   PTX by the SHA-256 of the cubin that was made from it: a cubin runs as that
    only_cubins  refuse PTX, as a machine without the driver's compiler does
    driver   version of CUDA that the driver is for, as in 12090
    unready  how often a stream answers that it is not ready before it has done anything
    """

    def __init__(
        self,
        cache: Path | None = None,
        *,
        sm: tuple[int, int] = (8, 0),
        cards: int = 1,
        memory_bytes: int = 2 * GiB,
        multiprocessors: int = 2,
        driver: int = 13000,
        cubins: Mapping[str, bytes] | None = None,
        only_cubins: bool = False,
        seed: int = 0,
        threads: int = 2,
        unready: int = 1,
        budget: int | None = None,
    ) -> None:
        self.sm, self.cards, self.driver, self.unready = sm, cards, driver, unready
        self.multiprocessors = multiprocessors
        self.memories = [Memory(memory_bytes) for _ in range(cards)]
        self.cubins, self.only_cubins = dict(cubins or {}), only_cubins
        self.misuses: list[str] = []
        self.calls: deque[str] = deque(maxlen=10000)
        self.sticky = 0
        self.gone = self.hangs = self.ready = False
        self._failing: dict[str, deque[int]] = {}
        self._runner = Runner(cache, seed, threads, budget)
        self._handles: dict[int, Any] = {}
        self._numbers = count(0x5000_0000, 16)
        self._contexts = [0] * cards
        self._retained = [0] * cards
        self._current = threading.local()
        self._lock = threading.RLock()
        self._texts = {k: (name.encode(), f"text of {k}".encode()) for k, name in _NAMES.items()}
        self.functions = {
            name: ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(self._checked(name))
            for name, arguments in FUNCTIONS.items()
        }

    def library(self) -> Library:
        return Library(self.functions)

    def fail(self, function: str, *statuses: int) -> None:
        """Let the next calls of a function fail, one by one."""
        self._failing.setdefault(function, deque()).extend(statuses)

    def is_present(self, bus_id: str) -> bool:
        return not self.gone

    def close(self) -> None:
        self._runner.close()

    # What every call goes through -----------------------------------------------------------

    def _checked(self, name: str) -> Callable[..., int]:
        function = getattr(self, name)

        def call(*arguments: Any) -> int:
            with self._lock:
                try:
                    self.calls.append(name)
                    if self._failing.get(name):
                        return self._failing[name].popleft()
                    if self.sticky and name not in _ANYTIME:
                        return self.sticky
                    if not self.ready and name not in _ANYTIME:
                        raise Misuse(3, "before cuInit")
                    if name not in _WITHOUT_CONTEXT:
                        self._card()
                    return function(*arguments) or 0
                except Misuse as misuse:
                    self.misuses.append(f"{name}: {misuse}")
                    return misuse.status
                except Exception as error:
                    self.misuses.append(f"{name}: a mistake of the fake: {error!r}")
                    return 999

        return call

    def _card(self) -> int:
        """Whose context is this thread's."""
        handle = getattr(self._current, "context", 0)
        if not handle or handle not in self._contexts:
            raise Misuse(201, "no context is current on this thread")
        return self._contexts.index(handle)

    @property
    def _memory(self) -> Memory:
        return self.memories[self._card()]

    def _new(self, thing: Any) -> int:
        handle = next(self._numbers)
        self._handles[handle] = (self._card(), thing)
        return handle

    def _get(self, handle: int | None, kind: type) -> Any:
        card, thing = self._handles.get(handle or 0, (None, None))
        if not isinstance(thing, kind):
            raise Misuse(400, f"{handle} is no {kind.__name__.lower()}, or it was destroyed")
        if card != self._card():
            raise Misuse(400, f"a {kind.__name__.lower()} of another context")
        return thing

    def _destroy(self, handle: int | None, kind: type) -> Any:
        thing = self._get(handle, kind)
        del self._handles[handle or 0]
        return thing

    # Start ----------------------------------------------------------------------------------

    def cuInit(self, flags: int) -> int | None:
        if flags:
            raise Misuse(1, "flags")
        if not self.cards:
            return 100
        self.ready = True
        return None

    def cuDriverGetVersion(self, version: Any) -> None:
        version[0] = self.driver

    def cuGetErrorName(self, status: int, text: Any) -> int | None:
        if status not in self._texts:
            return 1
        text[0] = self._texts[status][0]
        return None

    def cuGetErrorString(self, status: int, text: Any) -> int | None:
        if status not in self._texts:
            return 1
        text[0] = self._texts[status][1]
        return None

    def cuDeviceGetCount(self, found: Any) -> None:
        found[0] = self.cards

    def cuDeviceGet(self, device: Any, ordinal: int) -> int | None:
        if not 0 <= ordinal < self.cards:
            return 101
        device[0] = ordinal + 100  # no ordinal, so that a mixture of the two shows
        return None

    def _ordinal(self, device: int) -> int:
        if not 0 <= device - 100 < self.cards:
            raise Misuse(101, f"{device} is no device")
        return device - 100

    def cuDeviceGetName(self, text: Any, size: int, device: int) -> None:
        _write(text, size, f"Fake sm_{self.sm[0]}{self.sm[1]} number {self._ordinal(device)}")

    def cuDeviceGetPCIBusId(self, text: Any, size: int, device: int) -> None:
        _write(text, size, f"0000:{0x21 + self._ordinal(device):02x}:00.0")

    def cuDeviceTotalMem_v2(self, size: Any, device: int) -> None:
        size[0] = self.memories[self._ordinal(device)].size_bytes

    def cuDeviceGetAttribute(self, found: Any, attribute: int, device: int) -> None:
        self._ordinal(device)
        known = {16: self.multiprocessors, 75: self.sm[0], 76: self.sm[1]}
        if attribute not in known:
            raise Misuse(1, f"attribute {attribute}")
        found[0] = known[attribute]

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        card = self._ordinal(device)
        if not self._retained[card]:
            self._contexts[card] = next(self._numbers)
        self._retained[card] += 1
        context[0] = self._contexts[card]

    def cuDevicePrimaryCtxRelease_v2(self, device: int) -> None:
        card = self._ordinal(device)
        if not self._retained[card]:
            raise Misuse(201, "released more often than retained")
        self._retained[card] -= 1
        if not self._retained[card]:
            self._contexts[card] = 0
            self.memories[card].live.clear()
            gone = [k for k, (owner, _) in self._handles.items() if owner == card]
            for handle in gone:
                del self._handles[handle]

    def cuCtxSetCurrent(self, context: int | None) -> None:
        if context and context not in self._contexts:
            raise Misuse(201, "that context is destroyed")
        self._current.context = context

    # Memory ---------------------------------------------------------------------------------

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        memory = self._memory
        free[0], total[0] = memory.size_bytes - memory.used_bytes, memory.size_bytes

    def cuMemAlloc_v2(self, address: Any, size: int) -> int | None:
        if not size:
            raise Misuse(1, "no bytes")
        made = self._memory.take(size, is_host=False)
        if made is None:
            return 2
        address[0] = made.address
        return None

    def cuMemFree_v2(self, address: int) -> None:
        self._run_all()  # as the real one waits
        found = self._memory.live.get(address)
        if found is None or found.is_host:
            raise Misuse(1, f"{address:#x} is not allocated")
        del self._memory.live[address]

    def cuMemHostAlloc(self, place: Any, size: int, flags: int) -> int | None:
        if not size or flags != 3:
            raise Misuse(1, f"{size} bytes with flags {flags}")
        if size > 64 * GiB:
            return 2
        made = self._memory.take(size, is_host=True)
        assert made is not None
        place[0] = made.address
        return None

    def cuMemFreeHost(self, place: int | None) -> None:
        if any(stream.pending for stream in self._streams()):
            raise Misuse(1, "pinned memory is freed while copies may use it")
        found = self._memory.live.get(place or 0)
        if found is None or not found.is_host:
            raise Misuse(1, "no pinned memory")
        found.bytes[:] = 0xDD  # whoever looks at it now sees that
        self._freed = getattr(self, "_freed", [])
        self._freed.append(found)  # not given to others: the real one would be unmapped
        del self._memory.live[place or 0]

    def cuMemHostGetDevicePointer_v2(self, address: Any, place: int | None, flags: int) -> None:
        if self._memory.find(place or 0, 1, is_host=True) is None or flags:
            raise Misuse(1, "no pinned memory")
        address[0] = place

    def _bytes(self, address: int | None, size: int, is_host: bool) -> Any:
        if not size:
            raise Misuse(1, "no bytes")
        found = self._memory.find(address or 0, size, is_host)
        if found is None:
            where = "pinned memory" if is_host else "one allocation of the card"
            raise Misuse(1, f"{size} bytes at {address or 0:#x} are not in {where}")
        return found

    def cuMemcpyHtoDAsync_v2(
        self, target: int, source: int | None, size: int, stream: int | None
    ) -> None:
        to, data = self._bytes(target, size, False), self._bytes(source, size, True)
        self._ask(stream, lambda: to.__setitem__(slice(None), data))

    def cuMemcpyDtoHAsync_v2(
        self, target: int | None, source: int, size: int, stream: int | None
    ) -> None:
        to, data = self._bytes(target, size, True), self._bytes(source, size, False)
        self._ask(stream, lambda: to.__setitem__(slice(None), data))

    def cuMemcpyDtoDAsync_v2(self, target: int, source: int, size: int, stream: int | None) -> None:
        to, data = self._bytes(target, size, False), self._bytes(source, size, False)
        self._ask(stream, lambda: to.__setitem__(slice(None), data.copy()))

    def cuMemsetD8Async(self, target: int, value: int, size: int, stream: int | None) -> None:
        to = self._bytes(target, size, False)
        self._ask(stream, lambda: to.fill(value))

    # Streams and events ---------------------------------------------------------------------

    def _streams(self) -> list[Stream]:
        mine = self._card()
        return [x for card, x in self._handles.values() if card == mine and isinstance(x, Stream)]

    def _ask(self, stream: int | None, what: Callable[[], None]) -> None:
        if not stream:
            raise Misuse(400, "the default stream is nobody's")
        self._get(stream, Stream).pending.append(what)

    def _run(self, stream: Stream, leave: int = 0) -> int:
        """Do what is pending but for the last `leave`; the sticky error if there is one."""
        while len(stream.pending) > leave and not self.sticky and not self.hangs:
            stream.pending.popleft()()
        return 600 if self.hangs else self.sticky

    def _run_all(self) -> None:
        for stream in self._streams():
            self._run(stream)

    def cuStreamCreate(self, stream: Any, flags: int) -> None:
        if flags != 1:
            raise Misuse(1, "streams that wait for the default stream")
        stream[0] = self._new(Stream())

    def cuStreamDestroy_v2(self, stream: int | None) -> None:
        if self._destroy(stream, Stream).pending:
            raise Misuse(400, "destroyed while work is pending")

    def cuStreamQuery(self, stream: int | None) -> int:
        return self._poll(self._get(stream, Stream), 0)

    def _poll(self, stream: Stream, leave: int) -> int:
        if len(stream.pending) <= leave:
            return self.sticky
        stream.asked += 1
        if self.hangs or stream.asked <= self.unready:
            return 600
        stream.asked = 0
        return self._run(stream, leave)

    def cuEventCreate(self, event: Any, flags: int) -> None:
        event[0] = self._new(Event(timed=flags != _NO_TIMING))

    def cuEventRecord(self, event: int | None, stream: int | None) -> None:
        found: Event = self._get(event, Event)
        found.stream = self._get(stream, Stream)
        found.behind += 1
        ticket = found.behind

        def happen() -> None:
            if found.behind == ticket:
                found.stream, found.happened = None, time.perf_counter()

        self._ask(stream, happen)

    def cuEventQuery(self, event: int | None) -> int:
        found: Event = self._get(event, Event)
        stream = found.stream
        if stream is None:
            return 0
        while found.stream is not None:  # everything before it in its stream, and no more
            status = self._poll(stream, len(stream.pending) - 1)
            if status:
                return status
        return 0

    def cuEventElapsedTime(self, milliseconds: Any, first: int | None, last: int | None) -> None:
        a, b = self._get(first, Event), self._get(last, Event)
        if not (a.timed and b.timed) or a.stream or b.stream:
            raise Misuse(400, "events that have no time")
        milliseconds[0] = (b.happened - a.happened) * 1e3

    def cuEventDestroy_v2(self, event: int | None) -> None:
        self._destroy(event, Event)

    # Modules --------------------------------------------------------------------------------

    def cuModuleLoadDataEx(
        self, module: Any, image: int | None, number: int, options: Any, values: Any
    ) -> int | None:
        log = {options[k]: values[k] for k in range(number)}
        assert image is not None
        if ctypes.string_at(image, 4) == b"\x7fELF":
            code = _elf_at(image)
            try:
                sm = read_cubin(code).sm
            except KernelError:
                return 200
            if sm // 10 != self.sm[0] or sm % 10 > self.sm[1]:
                return 209
            text = self.cubins.get(hashlib.sha256(code).hexdigest())
            if text is None:
                raise Misuse(200, "a cubin of which nobody knows what it was made from")
        else:
            text = ctypes.string_at(image)
            if self.only_cubins:
                return 221
            version = tuple(map(int, re.search(rb"\.version (\d+)\.(\d+)", text).groups()))  # type: ignore[union-attr]
            newest = max(v for d, v in _PTX_OF_DRIVER.items() if d <= self.driver)
            if version > newest:
                return 222
            target = re.search(rb"\.target sm_(\d+)", text)
            if target is None or int(target[1]) > 10 * self.sm[0] + self.sm[1]:
                return 209
        try:
            module[0] = self._new(Module(self._runner.model.load(text)))
        except PtxFault as fault:
            said = f"ptxas application ptx input: error: {fault}".encode()[: log.get(6, 1) - 1]
            ctypes.memmove(log[5], said + b"\0", len(said) + 1)
            return 218
        return None

    def cuModuleGetFunction(self, function: Any, module: int | None, name: bytes) -> int | None:
        found = self._get(module, Module).functions.get(name.decode())
        if found is None:
            return 500
        function[0] = self._new(found)
        return None

    def cuModuleUnload(self, module: int | None) -> None:
        self._destroy(module, Module)

    # Graphs ---------------------------------------------------------------------------------

    def cuGraphCreate(self, graph: Any, flags: int) -> None:
        graph[0] = self._new(Graph())

    def cuGraphAddEmptyNode(self, made: Any, graph: int | None, before: Any, number: int) -> None:
        self._add(made, self._get(graph, Graph), before, number, Node(()))

    def cuGraphAddKernelNode_v2(
        self, made: Any, graph: int | None, before: Any, number: int, parameters: Any
    ) -> None:
        wanted = parameters[0]
        function: Function = self._get(wanted.func, Function)
        grid, block = tuple(wanted.grid), tuple(wanted.block)
        if not (1 <= grid[0] <= _MOST_GROUPS and grid[1:] == (1, 1)):
            raise Misuse(1, f"a grid of {grid}")
        if wanted.kernel_params or wanted.context or wanted.kern:
            raise Misuse(1, "arguments in two ways")
        extra = wanted.extra
        if (extra[0], extra[2], extra[4]) != (1, 2, None):
            raise Misuse(1, "extra is not {1, buffer, 2, size, 0}")
        size = ctypes.c_size_t.from_address(extra[3]).value
        if size != function.entry.parameter_bytes:
            raise Misuse(1, f"{size} bytes of arguments for {function.entry.parameter_bytes}")
        lanes = function.entry.group_lanes
        if lanes is not None and lanes != block:
            raise Misuse(1, f"{block} lanes where the kernel says {lanes}")
        arguments = ctypes.string_at(extra[1], size)
        node = Node((), function, grid, block, wanted.shared_bytes, arguments)
        self._add(made, self._get(graph, Graph), before, number, node)

    def _add(self, made: Any, graph: Graph, before: Any, number: int, node: Node) -> None:
        node.before = tuple(before[k] for k in range(number))
        if len(set(node.before)) != number or any(k not in graph.nodes for k in node.before):
            raise Misuse(1, "it depends on nodes twice, or on none of this graph")
        handle = self._new(node)
        graph.nodes[handle] = node
        made[0] = handle

    def cuGraphInstantiateWithFlags(self, made: Any, graph: int | None, flags: int) -> None:
        if flags:
            raise Misuse(1, "flags")
        made[0] = self._new(_Ready(Graph(dict(self._get(graph, Graph).nodes))))

    def cuGraphUpload(self, ready: int | None, stream: int | None) -> None:
        self._get(ready, _Ready)
        self._get(stream, Stream)

    def cuGraphLaunch(self, ready: int | None, stream: int | None) -> None:
        graph = self._get(ready, _Ready).graph
        memory = self._memory

        def run() -> None:
            try:
                self._runner.run(graph, memory.windows)
            except PtxFault as fault:
                if fault.kind == "hang":
                    self.hangs = True
                    stream_of.pending.appendleft(run)
                self.sticky = 0 if self.hangs else _FAULTS.get(fault.kind, 719)

        stream_of = self._get(stream, Stream)
        self._ask(stream, run)

    def cuGraphExecDestroy(self, ready: int | None) -> None:
        self._destroy(ready, _Ready)

    def cuGraphDestroy(self, graph: int | None) -> None:
        for handle in self._destroy(graph, Graph).nodes:
            self._handles.pop(handle, None)


@dataclass
class _Ready:
    graph: Graph


def _write(text: Any, size: int, value: str) -> None:
    ctypes.memmove(text, value.encode()[: size - 1] + b"\0", min(len(value), size - 1) + 1)


def _elf_at(address: int) -> bytes:
    """The whole file, as its headers say how long it is."""
    header = ctypes.string_at(address, 64)
    table, size, number = (
        *struct.unpack_from("<Q", header, 40),
        *struct.unpack_from("<HH", header, 58),
    )
    end = table + size * number
    rows = ctypes.string_at(address + table, size * number)
    for k in range(number):
        kind, offset, length = struct.unpack_from("<4xI16xQQ", rows, k * size)
        if kind not in (0, 8):
            end = max(end, offset + length)
    first, entry, many = (
        *struct.unpack_from("<Q", header, 32),
        *struct.unpack_from("<HH", header, 54),
    )
    return ctypes.string_at(address, max(end, first + entry * many if many else 0))
