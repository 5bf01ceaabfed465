"""Compute queues of the MEC: descriptors latched from HQD registers, doorbells, rings.

A queue starts when CP_HQD_ACTIVE is written, with what stands in its registers then, and only on
an MEC that runs. What a driver has to set up first is checked at the doorbell, where real queues
just do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exosuit.silicon.amd.hqd import (
    FIRST_REGISTER,
    MQD_FIRST_DWORD,
    DequeueRequest,
    DoorbellControl,
    EopControl,
    Hqd,
    QueueControl,
    QueueError,
)
from exosuit.silicon.amd.hub import Client
from exosuit.silicon.amd.mqd import BYTES as MQD_BYTES
from exosuit.silicon.amd.mqd import Mqd
from exosuit.silicon.amd.pm4 import Pm4
from exosuit.softcard.amd.gfx import Gfx, QueueKey
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.amd.pm4 import Processor
from exosuit.softcard.amd.queue import Decoded, Execution, Outcome
from exosuit.softcard.amd.tlb import Tlb
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.softcard.timeline import Timeline

MEC = 1
"""The micro-engine that runs compute queues."""


@dataclass
class Ring:
    """A running queue, as latched. Pointers are dwords that never wrap."""

    base: int
    dwords: int
    report_at: int
    slot: int
    has_end_of_pipe: bool
    units_enabled: bool
    read_pointer: int = 0
    write_pointer: int = 0
    fetched: int = field(default=0)


class ComputeQueue:
    """One queue and what executes it."""

    def __init__(
        self,
        key: QueueKey,
        ring: Ring,
        tlb: Tlb,
        decoded: Decoded[Pm4],
        timeline: Timeline,
        make: Callable[[ComputeQueue], Processor],
        stop: Callable[[ComputeQueue, QueueError], None],
    ) -> None:
        self.key = key
        self.ring = ring
        self._tlb = tlb
        self._decoded = decoded
        self.timeline = timeline
        self._stop = stop
        self.processor = make(self)
        self.execution: Execution[Pm4] = Execution(self.processor.obey, self._consumed)
        self.waiting = self.paused = False

    def ring_doorbell(self, pointer: int) -> None:
        self.ring.write_pointer = pointer
        self.timeline.begin()

    def run(self) -> bool:
        """Obey what can be obeyed; whether anything was."""
        ring = self.ring
        before = ring.read_pointer, self.processor.obeyed
        self.waiting = self.paused = False
        while not self.execution.stuck:
            if self.execution.is_idle:
                if ring.fetched == ring.write_pointer:
                    break
                faults = self._tlb.faults
                stream = self._fetch()
                if self._tlb.faults != faults:
                    self._stop(self, QueueError(pq_utcl1_error=True))
                    break
                self.execution.call(self._decoded(stream))
            outcome = self.execution.run()
            if outcome in (Outcome.WAITING, Outcome.PAUSED):
                self.waiting = outcome is Outcome.WAITING
                self.paused = outcome is Outcome.PAUSED
                break
        if self.execution.is_idle and not self.execution.stuck:
            self.execution.stuck, self.paused = self.processor.finish()
        moved = (ring.read_pointer, self.processor.obeyed) != before
        if moved and ring.report_at:
            pointer = (ring.read_pointer & 0xFFFF_FFFF).to_bytes(4, "little")
            self._tlb.write(ring.report_at, pointer, Client.CPC, self.timeline)
        return moved

    def _fetch(self) -> bytes:
        """What the ring holds from the fetched pointer to the write pointer."""
        ring = self.ring
        first = ring.fetched % ring.dwords
        count = min(ring.write_pointer - ring.fetched, ring.dwords)
        until_end = min(count, ring.dwords - first)
        read = self._tlb.read
        data = read(ring.base + 4 * first, 4 * until_end, Client.CPC, self.timeline)
        if until_end < count:
            data += read(ring.base, 4 * (count - until_end), Client.CPC, self.timeline)
        ring.fetched += count
        return data

    def _consumed(self, size: int) -> None:
        self.ring.read_pointer += size // 4


class ComputeQueues:
    """All queues of the MEC, by bank.

    processor  makes what obeys a queue's packets
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: LocalMemory,
        gfx: Gfx,
        tlb: Tlb,
        refuse: Refuse,
        *,
        timeline: Callable[[], Timeline],
        processor: Callable[[ComputeQueue], Processor],
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._gfx = gfx
        self._tlb = tlb
        self._refuse = refuse
        self._timeline = timeline
        self._processor = processor
        self._decoded = Decoded(Pm4)
        self.queues: dict[QueueKey, ComputeQueue] = {}
        registers.on_write("CP_HQD_ACTIVE", self._activate)
        registers.on_write("CP_HQD_DEQUEUE_REQUEST", self._dequeue)
        registers.on_write("SPI_COMPUTE_QUEUE_RESET", self._reset_waves)
        registers.on_read("CP_HQD_PQ_RPTR", self._read_pointer)

    def drop(self) -> None:
        """A reset of the MEC: nothing runs any more."""
        for key in self.queues:
            self._gfx.queues.put(key, "CP_HQD_ACTIVE", 0)
        self.queues.clear()

    def find(self, slot: int) -> ComputeQueue | None:
        """The running queue that a doorbell slot belongs to."""
        return next((q for q in self.queues.values() if q.ring.slot == slot), None)

    def stop(self, queue: ComputeQueue, error: QueueError) -> None:
        """A queue cannot go on; the reason stands in its registers."""
        queue.execution.stuck = True
        self._gfx.queues.put(queue.key, "CP_HQD_ERROR", error)

    def _read_pointer(self, index: int, stored: int) -> int:
        queue = self.queues.get(self._gfx.selected)
        return stored if queue is None else queue.ring.read_pointer % queue.ring.dwords

    def _activate(self, index: int, value: int) -> int:
        key = self._gfx.selected
        if not value & 1:
            self.queues.pop(key, None)
            return value
        if key in self.queues:
            self._refuse(f"CP_HQD_ACTIVE of queue {key}, which is active")
            return value
        if key[0] != MEC:
            self._refuse(f"CP_HQD_ACTIVE of queue {key}: compute queues are on micro-engine 1")
            return 0
        if reason := self._gfx.why_mec_stands():
            self._refuse(f"CP_HQD_ACTIVE while {reason}")
            return 0
        self.queues[key] = ComputeQueue(
            key,
            self._latch(),
            self._tlb,
            self._decoded,
            self._timeline(),
            self._processor,
            self.stop,
        )
        return value

    def _latch(self) -> Ring:
        get = self._registers.get
        control = QueueControl(get("CP_HQD_PQ_CONTROL"))
        doorbell = DoorbellControl(get("CP_HQD_PQ_DOORBELL_CONTROL"))
        if not doorbell.doorbell_en:
            self._refuse("a queue without a doorbell")
        if get("CP_HQD_VMID"):
            self._refuse("a queue of another VMID than 0")
        if get("CP_HQD_AQL_CONTROL") & 0xFFFF:
            self._refuse("a queue of AQL packets")
        end_of_pipe = get("CP_HQD_EOP_BASE_ADDR") << 8
        size = EopControl(get("CP_HQD_EOP_CONTROL")).eop_size
        return Ring(
            base=get("CP_HQD_PQ_BASE") << 8,
            dwords=2 << control.queue_size,
            report_at=get("CP_HQD_PQ_RPTR_REPORT_ADDR") & ~3,
            slot=doorbell.doorbell_offset // 2,
            has_end_of_pipe=bool(end_of_pipe and size),
            units_enabled=self._compare_descriptor(),
            read_pointer=get("CP_HQD_PQ_RPTR"),
            write_pointer=get("CP_HQD_PQ_RPTR"),
            fetched=get("CP_HQD_PQ_RPTR"),
        )

    def _compare_descriptor(self) -> bool:
        """The descriptor in memory must say what the registers say; whether it lets units work."""
        at = self._registers.get("CP_MQD_BASE_ADDR") & ~3
        place = self._memory.at_mc(at, MQD_BYTES)
        if place is None:
            self._refuse(f"a queue descriptor at {at:#x}, outside local memory")
            return False
        words = place.cast("I")
        for description in Hqd.REGISTERS.values():
            if description.name == "CP_HQD_ACTIVE":
                continue
            dword = MQD_FIRST_DWORD + description.offset // Hqd.UNIT - FIRST_REGISTER
            kept = words[dword]
            if description.kind.WIDTH == 64:
                kept |= words[dword + 1] << 32
            have = self._registers.get(description.name)
            if kept != have:
                self._refuse(
                    f"{description.name} of {have:#x} where the queue's descriptor holds {kept:#x}"
                )
        descriptor = Mqd(place)
        return bool(descriptor.compute_static_thread_mgmt_se0)

    def _dequeue(self, index: int, value: int) -> int:
        if not DequeueRequest(value).dequeue_req:
            return value
        key = self._gfx.selected
        self.queues.pop(key, None)
        self._registers.put("CP_HQD_ACTIVE", 0)
        return 0

    def _reset_waves(self, index: int, value: int) -> int:
        self.queues.pop(self._gfx.selected, None)
        self._registers.put("CP_HQD_ACTIVE", 0)
        return 0
