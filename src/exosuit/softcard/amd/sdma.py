"""SDMA0, queue 0: a ring of copies, fences and polls, obeyed in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exosuit.datasheet import UnknownPacket
from exosuit.silicon.amd import sdma
from exosuit.silicon.amd.hub import Client
from exosuit.silicon.amd.ih import Client as Reporter
from exosuit.silicon.amd.ih import Source
from exosuit.silicon.amd.sdma_registers import (
    Doorbell,
    DoorbellOffset,
    F32Control,
    McuControl,
    RingControl,
    Sdma6,
)
from exosuit.silicon.amd.sdma_registers import Sdma as SdmaRegisters
from exosuit.softcard.amd.caches import Caches
from exosuit.softcard.amd.ih import Ih
from exosuit.softcard.amd.pm4 import compare
from exosuit.softcard.amd.queue import Decoded, Execution, Outcome
from exosuit.softcard.amd.timeline import PACKET_NS, ticks
from exosuit.softcard.amd.tlb import Tlb
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.softcard.timeline import Timeline

FETCH_BYTES = 1 << 16
"""So much of the ring is taken apart at once."""


@dataclass
class Ring:
    """The ring as latched. Pointers are bytes that never wrap."""

    base: int
    size: int
    report_at: int
    read_pointer: int
    write_pointer: int
    fetched: int


class Sdma:
    """The copy engine.

    bandwidth  of local memory, bytes per second; each byte copied crosses it once
    is_loaded  whether the engine has its firmware
    """

    def __init__(
        self,
        registers: RegisterFile,
        described: type[SdmaRegisters],
        tlb: Tlb,
        ih: Ih,
        timeline: Timeline,
        refuse: Refuse,
        *,
        bandwidth: float,
        caches: Caches,
        before_copy: Callable[[], None],
        expect_flushed: Callable[[str], None],
        is_loaded: Callable[[], bool],
    ) -> None:
        self._bandwidth = bandwidth
        self._caches = caches
        self._before_copy = before_copy
        self._expect_flushed = expect_flushed
        self._is_loaded = is_loaded
        self._registers = registers
        self._is_f32 = issubclass(described, Sdma6)
        self._tlb = tlb
        self._ih = ih
        self.timeline = timeline
        self._refuse = refuse
        self._decoded: Decoded[sdma.Sdma] = Decoded(sdma.Sdma)
        self.ring: Ring | None = None
        self.waiting = self.paused = False
        self.copied_bytes = 0
        self._execution: Execution[sdma.Sdma] = Execution(self._obey, self._consumed)
        registers.on_write("SDMA0_QUEUE0_RB_CNTL", self._control)
        registers.on_read("SDMA0_QUEUE0_RB_RPTR", self._read_pointer)

    def drop(self) -> None:
        """A reset of the engine."""
        self.ring = None
        self._execution = Execution(self._obey, self._consumed)

    @property
    def slot(self) -> int:
        """The doorbell slot of the queue, -1 while it listens to none."""
        if not Doorbell(self._registers.get("SDMA0_QUEUE0_DOORBELL")).enable:
            return -1
        offset = DoorbellOffset(self._registers.get("SDMA0_QUEUE0_DOORBELL_OFFSET")).offset
        return offset // 2

    def why_stands(self) -> str:
        """Why the engine does not run, or nothing."""
        if not self._is_loaded():
            return "the copy engine has no firmware"
        if self._is_f32:
            f32 = F32Control(self._registers.get("SDMA0_F32_CNTL"))
            halted = f32.halt or f32.th1_reset
        else:
            mcu = McuControl(self._registers.get("SDMA0_MCU_CNTL"))
            halted = mcu.halt or mcu.reset
        if halted:
            return "the copy engine is halted or in reset"
        return "" if self.ring else "the copy ring is not enabled"

    def ring_doorbell(self, pointer: int) -> None:
        """The driver says how far it has written the ring."""
        ring = self.ring
        if ring is None or pointer % 4 or not ring.read_pointer <= pointer:
            self._refuse(f"a copy write pointer of {pointer:#x}")
            return
        if pointer - ring.read_pointer > ring.size:
            self._refuse(f"a copy write pointer of {pointer:#x}, more than the ring holds")
            return
        ring.write_pointer = pointer
        self.timeline.begin()

    def run(self) -> bool:
        """Obey what can be obeyed; whether anything was."""
        ring = self.ring
        self.waiting = False
        if ring is None:
            return False
        before = ring.read_pointer
        while not self._execution.stuck:
            if self._execution.is_idle:
                if ring.fetched == ring.write_pointer:
                    break
                faults = self._tlb.faults
                stream = self._fetch(ring)
                if self._tlb.faults != faults:
                    self._ih.report(Reporter.GFX, Source.SDMA_PAGE_FAULT)
                    self._execution.stuck = True
                    break
                self._execution.call(self._decoded(stream))
            if self._execution.run() is Outcome.WAITING:
                self.waiting = True
                break
        moved = ring.read_pointer != before
        if moved and ring.report_at:
            pointer = ring.read_pointer.to_bytes(8, "little")
            self._tlb.write(ring.report_at, pointer, Client.SDMA0, self.timeline)
        return moved

    def _fetch(self, ring: Ring) -> bytes:
        """Whole packets from the fetched pointer on; zeros at the end of a ring are skipped."""
        at = ring.fetched % ring.size
        room = min(ring.write_pointer - ring.fetched, ring.size - at, FETCH_BYTES)
        data = self._tlb.read(ring.base + at, room, Client.SDMA0, self.timeline)
        zeros = len(data) - len(data.lstrip(b"\0")) & ~3
        if zeros:
            ring.fetched += zeros
            ring.read_pointer += zeros
            return b""
        whole = 0
        view = memoryview(data)
        while whole < len(data):
            measured = sdma.Sdma.measure(view[whole:])
            if measured is None or whole + measured[1] > len(data):
                break
            whole += measured[1]
        if not whole:
            # A packet across the end of the ring, or longer than one fetch.
            wrapped = self._tlb.read(
                ring.base, min(ring.write_pointer - ring.fetched, ring.size) - room,
                Client.SDMA0, self.timeline,
            ) if room < ring.write_pointer - ring.fetched else b""  # fmt: skip
            data += wrapped
            measured = sdma.Sdma.measure(memoryview(data))
            whole = min(measured[1], len(data)) if measured else len(data)
        ring.fetched += whole
        return data[:whole]

    def _consumed(self, size: int) -> None:
        assert self.ring is not None
        self.ring.read_pointer += size

    def _control(self, index: int, value: int) -> int:
        control = RingControl(value)
        if not control.rb_enable:
            self.drop()
            return value
        get = self._registers.get
        if control.rb_vmid:
            self._refuse("a copy ring of another VMID than 0")
        report_at = get("SDMA0_QUEUE0_RB_RPTR_ADDR_LO") & ~3
        report_at |= get("SDMA0_QUEUE0_RB_RPTR_ADDR_HI") << 32
        start = get("SDMA0_QUEUE0_RB_RPTR")
        self._execution = Execution(self._obey, self._consumed)
        self.ring = Ring(
            base=get("SDMA0_QUEUE0_RB_BASE") << 8,
            size=4 << control.rb_size,
            report_at=report_at if control.rptr_writeback_enable else 0,
            read_pointer=start,
            write_pointer=start,
            fetched=start,
        )
        return value

    def _read_pointer(self, index: int, stored: int) -> int:
        return self.ring.read_pointer if self.ring else stored

    def _obey(self, packet: sdma.Sdma | UnknownPacket) -> Outcome:
        self.timeline.spend(PACKET_NS)
        match packet:
            case sdma.Nop() | sdma.GcrRequest():
                pass
            case sdma.CopyLinear():
                size = packet.count.count + 1
                self._expect_flushed("a copy")
                self._before_copy()
                self._tlb.copy(packet.source, packet.target, size, Client.SDMA0, self.timeline)
                self._caches.foreign_write()
                self.copied_bytes += size
                self.timeline.spend(size / self._bandwidth * 1e9)
            case sdma.Fence():
                self._store(packet.target & ~3, packet.value.to_bytes(4, "little"))
            case sdma.PollRegMem():
                return self._poll(packet)
            case sdma.WriteLinear():
                self._store(packet.target & ~3, bytes(packet.rest))
                self._caches.foreign_write()
            case sdma.ConstFill():
                self._fill(packet)
                self._caches.foreign_write()
            case sdma.TimestampGlobal():
                self._store(packet.target & ~7, ticks(self.timeline).to_bytes(8, "little"))
            case sdma.Trap():
                context = packet.context.context
                self._ih.report(Reporter.GFX, Source.SDMA_TRAP, contexts=(context, 0))
            case sdma.Indirect():
                return self._call(packet)
            case sdma.SrbmWrite():
                self._registers.write32(4 * packet.register, packet.value)
            case _:
                self._refuse(f"{packet!r} in a copy ring")
                return Outcome.STUCK
        return Outcome.DONE

    def _poll(self, packet: sdma.PollRegMem) -> Outcome:
        header = sdma.PollHeader(packet.header)
        if header.mem_poll:
            data = self._tlb.read(packet.address & ~3, 4, Client.SDMA0, self.timeline)
            value = int.from_bytes(data, "little")
        else:
            value = self._registers.read32(4 * (packet.address & 0xFFFF_FFFF))
        holds = compare(header.func, value & packet.mask, packet.reference)
        return Outcome.DONE if holds else Outcome.WAITING

    def _fill(self, packet: sdma.ConstFill) -> None:
        if packet.value == 0:
            size = packet.count.count + 1
            self._tlb.clear(packet.target, size, Client.SDMA0, self.timeline)
            return
        header = sdma.FillHeader(packet.header)
        unit = packet.value.to_bytes(4, "little")[: 1 << header.fillsize]
        pattern = unit * (FETCH_BYTES // len(unit))
        target, left = packet.target, packet.count.count + 1
        while left:
            piece = min(left, len(pattern))
            self._store(target, pattern[:piece])
            target, left = target + piece, left - piece

    def _call(self, packet: sdma.Indirect) -> Outcome:
        if packet.address % sdma.INDIRECT_ALIGNMENT or sdma.IndirectHeader(packet.header).vmid:
            self._refuse(f"an indirect copy buffer: {packet!r}")
            return Outcome.STUCK
        size = 4 * packet.size.size
        stream = self._tlb.read(packet.address, size, Client.SDMA0, self.timeline)
        if not self._execution.call(self._decoded(stream)):
            self._refuse("indirect copy buffers within indirect copy buffers")
            return Outcome.STUCK
        return Outcome.DONE

    def _store(self, address: int, data: bytes) -> None:
        self._tlb.write(address, data, Client.SDMA0, self.timeline)
