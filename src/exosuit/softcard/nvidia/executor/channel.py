"""A channel: entries out of its ring, methods out of its pushbuffers, and the host's own methods.

One method after the other is obeyed, until the ring is empty, a semaphore has not the value that is
waited for, or the channel is stopped by a fault. Engines work beside it; what waits for them to be
idle (WFI, a release with it) lets them finish first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from exosuit.silicon.nvidia.channel import Userd
from exosuit.silicon.nvidia.classes import ComputeClass, CopyClass, GpfifoClass
from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.push import (
    ENTRY_BYTES,
    FIRST_ENGINE_METHOD,
    GpEntry,
    Host,
    Malformed,
    MethodWrite,
    SemaphoreOperation,
    SemExecute,
    read_methods,
)
from exosuit.softcard.nvidia.executor.caches import Caches
from exosuit.softcard.nvidia.executor.compute import ComputeEngine
from exosuit.softcard.nvidia.executor.copy import CopyEngine
from exosuit.softcard.nvidia.executor.faults import (
    Engine,
    Fault,
    MethodFault,
    MmuFault,
    PushbufferFault,
    Stopped,
)
from exosuit.softcard.nvidia.executor.memory import GpuMemory, MemoryFault
from exosuit.softcard.nvidia.executor.methods import Methods
from exosuit.softcard.nvidia.executor.semaphores import ACQUIRES, REDUCTIONS, holds, reduced
from exosuit.softcard.registers import Refuse
from exosuit.softcard.timeline import Slice, Timeline

ENTRY_NS = 300.0
"""What an entry of the ring takes to be fetched; `assumed`."""
_GP_GET, _GP_PUT = Userd.gp_get.offset, Userd.gp_put.offset
_IDLE_FIRST = frozenset(
    method.description.offset
    for method in (Compute.WAIT_FOR_IDLE, Compute.INVALIDATE_SHADER_CACHES)
)
_MASKS = {False: 0xFFFF_FFFF, True: 0xFFFF_FFFF_FFFF_FFFF}


class ControlBlock(Protocol):
    """USERD, wherever it lies."""

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...


@dataclass
class ChannelSetup:
    """What a channel was allocated with.

    number        in its runlist; what a fault names
    group         of the channels that stop together
    ring          GPU address of `entries` entries
    memory        its address space
    gpfifo_class  of the channel itself
    classes       of the objects that were allocated on it; may grow
    is_enabled    whether it was scheduled; may change
    """

    number: int
    group: int
    ring: int
    entries: int
    userd: ControlBlock
    memory: GpuMemory
    gpfifo_class: int
    classes: set[int] = field(default_factory=set[int])
    is_enabled: bool = False


class Progress(Enum):
    DONE = "done"
    WAITING = "waiting"
    """For a value in memory."""
    NOT_IDLE = "not idle"
    """For the engines of this channel."""


class Channel:
    """One channel at work.

    compute, copies  make an engine for a class, when the channel binds it
    stop             called with the fault that stops the channel
    late             engines need not keep the order in which they were given work
    """

    def __init__(
        self,
        setup: ChannelSetup,
        timeline: Timeline,
        caches: Caches,
        refuse: Refuse,
        slice: Slice,
        *,
        compute: Callable[[Channel, int], ComputeEngine],
        copies: Callable[[Channel, int], CopyEngine],
        stop: Callable[[Channel, Fault | None], None],
        invalidate_tlb: Callable[[], None],
        late: Callable[[], bool],
    ) -> None:
        self.setup = setup
        self.timeline = timeline
        self._caches = caches
        self._refuse = refuse
        self._slice = slice
        self._make_compute = compute
        self._make_copies = copies
        self._stop = stop
        self._late = late
        self._host = host = Methods(Host, setup.gpfifo_class, refuse)
        self._objects: dict[int, ComputeEngine | CopyEngine] = {}
        self._engines: dict[int, ComputeEngine | CopyEngine] = {}
        self._entry = 0
        self._methods: Iterator[MethodWrite] = iter(())
        self._held: MethodWrite | None = None
        self._must_idle = False
        self._get = self._put = 0
        self.is_stopped = self.is_waiting = self.is_paused = False
        host.on(Host.MEM_OP_D, lambda value: invalidate_tlb())

    def ring_doorbell(self) -> None:
        """GP_PUT has moved."""
        put = self.setup.userd.read32(_GP_PUT)
        if put >= self.setup.entries:
            self._end(Stopped(self._bad(self.setup.ring, f"GP_PUT is {put}, past the ring's end")))
            return
        if not self._has_work:
            self._idle()  # whoever rings now may have seen the end of everything
        self._put = put
        self._caches.others_wrote()
        self.timeline.begin()

    def halt(self) -> None:
        """Nothing of this channel happens any more."""
        self.is_stopped, self.is_waiting, self.is_paused = True, False, False
        for engine in self._engines.values():
            engine.drop()

    @property
    def _has_work(self) -> bool:
        return (
            self.is_paused
            or self._held is not None
            or self._get != self._put
            or self._busy is not None
        )

    @property
    def _busy(self) -> ComputeEngine | CopyEngine | None:
        return next((engine for engine in self._engines.values() if engine.is_busy), None)

    def run(self) -> bool:
        """Obey what can be obeyed; whether anything was."""
        moved = False
        self.is_waiting = self.is_paused = False
        try:
            while not self.is_stopped:
                if moved and self._slice.is_over:
                    self.is_paused = True
                    break
                if not self._advance():
                    break
                moved = True
        except Stopped as stopped:
            self._end(stopped)
        return moved

    def _advance(self) -> bool:
        """One step of an engine, or one method; False if there is nothing to do, or to wait."""
        busy = self._busy
        if busy is not None and (self._must_idle or not self._late()):
            with _faults_of(self.setup.number, busy.engine):
                busy.step()
            return True
        self._must_idle = False
        with _faults_of(self.setup.number, Engine.HOST):
            write = self._held or self._next()
        if write is None:
            if self._get != self._put:
                return True
            self._must_idle = True
            return busy is not None
        self._held = None  # what is refused is not tried again
        progress = self._obey(write)
        if progress is not Progress.DONE:
            self._held = write
        waits = progress is Progress.WAITING
        # Engines go on while the host waits: what it waits for may be a grid's own release.
        self._must_idle = progress is Progress.NOT_IDLE or (waits and busy is not None)
        self.is_waiting = waits and busy is None
        return not self.is_waiting

    def _end(self, stopped: Stopped) -> None:
        self.halt()
        self._stop(self, stopped.fault)

    # Entries and pushbuffers.

    def _next(self) -> MethodWrite | None:
        """The next method, out of one more entry if need be; None where that has none."""
        try:
            write = next(self._methods, None)
            if write is None and self._get != self._put:
                self._fetch()
                write = next(self._methods, None)
        except Malformed as error:
            raise Stopped(self._bad(self._entry + error.offset, str(error))) from error
        return write

    def _fetch(self) -> None:
        setup = self.setup
        at = setup.ring + ENTRY_BYTES * self._get
        self._get = (self._get + 1) % setup.entries
        entry = GpEntry(int.from_bytes(self._read(at, ENTRY_BYTES), "little"))
        setup.userd.write32(_GP_GET, self._get)
        self.timeline.spend(ENTRY_NS)
        if entry.length == 0:
            if int(entry) >> 32 & 0xFF:
                self._refuse(f"a control entry {int(entry):#x} in the ring")
            return
        self._entry = entry.get << 2
        self._methods = read_methods(self._read(self._entry, 4 * entry.length))

    def _read(self, address: int, size: int) -> bytes:
        data = self.setup.memory.read(address, size)
        across = self.setup.memory.host_bytes(address, size)
        if across:
            self.timeline.read_host(across)
        return data

    def _bad(self, address: int, detail: str) -> PushbufferFault:
        return PushbufferFault(self.setup.number, Engine.HOST, detail, address)

    # Methods.

    def _obey(self, write: MethodWrite) -> Progress:
        subchannel, method, value = write
        if method >= FIRST_ENGINE_METHOD:
            engine = self._objects.get(subchannel)
            if engine is None:
                raise self._wrong(0, method, value, f"subchannel {subchannel}, which is not bound")
            if method in _IDLE_FIRST and isinstance(engine, ComputeEngine):
                if engine.is_busy:
                    return Progress.NOT_IDLE
                engine.was_used = False
            with _faults_of(self.setup.number, engine.engine):
                engine.methods.write(method, value)
            return Progress.DONE
        match method:
            case 0:
                self._bind(subchannel, value)
            case _ if method == Host.SEM_EXECUTE.description.offset:
                with _faults_of(self.setup.number, Engine.HOST):
                    progress = self._semaphore(SemExecute(value))
                if progress is not Progress.DONE:
                    return progress
                self._host.write(method, value)
            case _ if method == Host.WFI.description.offset:
                if not self._idle():
                    return Progress.NOT_IDLE
                self._host.write(method, value)
            case _:
                self._host.write(method, value)
        return Progress.DONE

    def _bind(self, subchannel: int, value: int) -> None:
        class_id = value & 0xFFFF
        if class_id not in self.setup.classes:
            raise self._wrong(class_id, 0, value, f"class {class_id:#06x}: no object")
        engine = self._engines.get(class_id)
        if engine is None:
            if class_id in tuple(ComputeClass):
                engine = self._make_compute(self, class_id)
            elif class_id in tuple(CopyClass):
                engine = self._make_copies(self, class_id)
            else:
                raise self._wrong(class_id, 0, value, f"class {class_id:#06x}: no engine")
            self._engines[class_id] = engine
        self._objects[subchannel] = engine

    def _wrong(self, class_id: int, method: int, value: int, detail: str) -> Stopped:
        number = self.setup.number
        text = f"method {method:#06x} with {value:#x} for {detail}"
        return Stopped(MethodFault(number, Engine.HOST, text, class_id, method, value))

    def _idle(self) -> bool:
        """Whether all engines are; then it is known to all who wait."""
        if self._busy is not None:
            return False
        for engine in self._engines.values():
            engine.was_used = False
        return True

    # Semaphores.

    def _semaphore(self, execute: SemExecute) -> Progress:
        address = self._host.wide(Host.SEM_ADDR_HI, Host.SEM_ADDR_LO)
        wide = execute.payload_size
        size = 16 if execute.release_timestamp else 8 if wide else 4
        high = 40 if self.setup.gpfifo_class < GpfifoClass.HOPPER_A else 57
        if address % size or address >> high:
            detail = f"a semaphore of {size} bytes at {address:#x}, not aligned or out of reach"
            raise Stopped(self._bad(address, detail))
        payload = self._host.wide(Host.SEM_PAYLOAD_HI, Host.SEM_PAYLOAD_LO) & _MASKS[wide]
        operation = execute.operation
        if operation not in (SemaphoreOperation.RELEASE, SemaphoreOperation.REDUCTION):
            found = int.from_bytes(self.setup.memory.read(address, 8 if wide else 4), "little")
            if operation not in ACQUIRES:
                raise Stopped(self._bad(address, f"semaphore operation {operation}"))
            is_held = holds(operation, found, payload, 64 if wide else 32)
            return Progress.DONE if is_held else Progress.WAITING
        if execute.release_wfi:
            if not self._idle():
                return Progress.NOT_IDLE
        elif any(engine.was_used for engine in self._engines.values()):
            self._refuse("a semaphore's release that does not wait for the work sent before it")
        if operation == SemaphoreOperation.REDUCTION:
            width = 8 if wide else 4
            found = int.from_bytes(self.setup.memory.read(address, width), "little")
            if execute.reduction not in REDUCTIONS:
                detail = f"semaphore reduction {int(execute.reduction)}, which is not modelled"
                raise Stopped(self._bad(address, detail))
            payload = reduced(execute, found, payload)
        data = payload.to_bytes(8, "little")
        data = data if wide or execute.release_timestamp else data[:4]
        if execute.release_timestamp:
            data += int(self.timeline.now_ns).to_bytes(8, "little")
        if self.setup.memory.host_bytes(address, size):
            self.timeline.write_host(size)
        self.setup.memory.write(address, data)
        return Progress.DONE


@contextmanager
def _faults_of(channel: int, engine: Engine) -> Generator[None]:
    """Turns an access without a translation into the fault of an engine."""
    try:
        yield
    except MemoryFault as error:
        fault = MmuFault(channel, engine, str(error), error.address, error.write)
        raise Stopped(fault) from error
