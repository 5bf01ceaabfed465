"""An AMD card: RX 7900 XTX, RX 7600 or RX 9070 XT, from its connector to its engines.

It powers on as a real one does after its own firmware has started: the discovery table in memory,
the boot loader waiting, everything else off. Its state survives clients; a mode1 reset takes it
back here, with its memory in disorder. Engines run at doorbells until they are done or wait, and
look again whenever the host may have written what they wait for.
"""

from __future__ import annotations

import logging

from exosuit.silicon import generic
from exosuit.silicon.amd.chips import BASES, CLASS_CODE, VENDOR_ID, Chip, find_blocks, placed_blocks
from exosuit.silicon.amd.discovery import HardwareId, read_discovery
from exosuit.silicon.amd.nbio import DOORBELL_BAR, MEMORY_BAR, REGISTER_BAR, REGISTER_BYTES
from exosuit.silicon.amd.paging import entry_kind
from exosuit.silicon.amd.pm4 import Pm4
from exosuit.silicon.amd.smu import Clock
from exosuit.softcard.amd.caches import Caches
from exosuit.softcard.amd.compute import ComputeQueue, ComputeQueues
from exosuit.softcard.amd.discovery import build_discovery, write_discovery
from exosuit.softcard.amd.gfx import Gfx
from exosuit.softcard.amd.hub import Hub
from exosuit.softcard.amd.ih import Ih
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.amd.nbio import (
    CP_ENTRIES,
    SDMA_ENTRY,
    DoorbellWindow,
    Nbio,
    RegisterWindow,
)
from exosuit.softcard.amd.pm4 import Processor, Programs
from exosuit.softcard.amd.programs import Translated
from exosuit.softcard.amd.psp import Psp
from exosuit.softcard.amd.queue import Decoded
from exosuit.softcard.amd.sdma import Sdma
from exosuit.softcard.amd.smu import Smu
from exosuit.softcard.amd.timeline import CLOCK_TICK_NS, dispatch_ns
from exosuit.softcard.amd.tlb import Tlb
from exosuit.softcard.amd.walker import Walker
from exosuit.softcard.card import MemoryBar, Options, SoftCard
from exosuit.softcard.config import BarShape, ConfigSpace
from exosuit.softcard.registers import RegisterFile
from exosuit.softcard.timeline import Cost, Slice, Timeline
from exosuit.units import MiB

log = logging.getLogger(__name__)

SMALL_BAR = 256 * MiB
DOORBELL_BYTES = 2 * MiB
MEMORY_AT = 0x60_0000_0000
DOORBELLS_AT = 0x7F_0000_0000
REGISTERS_AT = 0xA000_0000
LEAST_VRAM = 64 * MiB


class AmdCard(SoftCard):
    """One product of `silicon.amd.chips.CHIPS`.

    Local memory is as large as sold unless the options say otherwise; it is real only where it is
    touched. The window on it is 256 MiB until somebody resizes it; a window that the options give
    stays as it is, as on hosts that cannot resize.

    late  engines do not look at a doorbell before the host reads something or pauses, and then the
          one that was rung last begins: nothing is done in the order in which it was asked for
          unless the driver makes it so
    """

    def __init__(self, chip: Chip, options: Options | None = None) -> None:
        options = options or Options()
        vram = max(options.vram or chip.vram_bytes, LEAST_VRAM)
        super().__init__(_config(chip, vram, options.bar), options)
        self.name = f"soft:{chip.target}"
        self.chip = chip
        self.memory = LocalMemory(vram)
        found = read_discovery(build_discovery(chip))
        blocks = find_blocks(found)
        self.registers = registers = RegisterFile(self.refuse)
        for block, bases, prefix in placed_blocks(found):
            registers.declare(block, bases, prefix)
        self.mode1_resets = 0
        self._rung_last: ComputeQueue | Sdma | None = None
        self._slice = Slice()
        self.caches = Caches(self.refuse)
        self._compute_time: list[Timeline] = []
        self.ih = Ih(registers, self.memory, self.refuse, self._clock, self.dma_write)
        self.nbio = Nbio(registers, self.memory, self.refuse)
        walker = Walker(
            entry_kind(blocks.generation), self.memory, self.host, self.refuse, self.take_dma_fault
        )
        self.tlb = Tlb(self.memory)
        self.gc_hub, self.mm_hub = (
            Hub(
                registers,
                described,
                self.memory,
                walker,
                self.ih,
                self.refuse,
                invalidate=self.tlb.flush if described is blocks.gc_hub else _nothing,
                can_master=lambda: self.config.command.bus_master and not self.unplugged,
                fails=self._take_page_fault,
                expect_flushed=self.nbio.expect_flushed,
            )
            for described in (blocks.gc_hub, blocks.mm_hub)
        )
        self.tlb.attach(self.gc_hub)
        self.host.on_unmap = self.tlb.forget_host
        self.gfx = Gfx(
            registers,
            self.refuse,
            drop_compute=self._drop_compute,
            drop_copies=lambda: self.sdma.drop(),
        )
        self.programs: Programs = Translated(
            chip.target, self.tlb, options.cache, options.threads, self._take_program_fault
        )
        self.compute = ComputeQueues(
            registers,
            self.memory,
            self.gfx,
            self.tlb,
            self.refuse,
            timeline=self._timeline,
            processor=self._processor,
        )
        self.sdma = Sdma(
            registers,
            blocks.sdma,
            self.tlb,
            self.ih,
            self._timeline(),
            self.refuse,
            bandwidth=chip.bandwidth,
            caches=self.caches,
            before_copy=self._before_copy,
            expect_flushed=self.nbio.expect_flushed,
            is_loaded=lambda: self.gfx.is_started,
        )
        self.smu = Smu(
            registers,
            self.memory,
            chip,
            self.refuse,
            is_silent=lambda: self.silent,
            mode1_reset=self.mode1_reset,
        )
        self.psp = Psp(
            registers,
            self.memory,
            chip.versions[HardwareId.MP0],
            self.refuse,
            is_silent=lambda: self.silent,
            started=self.gfx.start,
            smu_loaded=self.smu.load,
            mode1_reset=self.mode1_reset,
        )
        self._ib_packets: Decoded[Pm4] = Decoded(Pm4)
        self.behind = {
            MEMORY_BAR: MemoryBar(self.memory.view),
            DOORBELL_BAR: DoorbellWindow(self._ring, self.refuse),
            REGISTER_BAR: RegisterWindow(registers, self.nbio, self.refuse),
        }
        write_discovery(chip, self.memory)

    def begin_write(self, bar: int, size: int) -> bool:
        arrives = super().begin_write(bar, size)
        if arrives and bar == MEMORY_BAR:
            self.nbio.wrote_memory()
            self.caches.foreign_write()
        return arrives

    # Engines.

    def step(self) -> bool:
        """Let every engine go as far as it can; whether one of them waits."""
        if self.page_fault or self.has_dma_fault:
            self.tlb.flush()  # so that the access that is to fail is looked up
        self._slice.begin()
        moved = True
        while moved:
            moved = False
            for engine in self._in_turn():
                if engine.run() and not engine.paused:
                    moved = True
                    self._others_wait_for(engine.timeline)
        queues = self.compute.queues.values()
        return self.sdma.waiting or any(q.waiting or q.paused for q in queues)

    def _in_turn(self) -> list[ComputeQueue | Sdma]:
        """Every engine, in the order in which they begin."""
        engines: list[ComputeQueue | Sdma] = [*self.compute.queues.values(), self.sdma]
        if self.late:
            engines.sort(key=lambda engine: engine is not self._rung_last)
        return engines

    def _rung(self, engine: ComputeQueue | Sdma) -> None:
        self._rung_last = engine
        if self.late:
            self.waiting = True
        else:
            self.run()

    def _before_copy(self) -> None:
        if all(queue.execution.is_idle for queue in self.compute.queues.values()):
            self.caches.expect_clean()

    def _take_page_fault(self) -> bool:
        due, self.page_fault = self.page_fault, False
        return due

    def _take_program_fault(self) -> bool:
        due, self.program_fault = self.program_fault, False
        return due

    def _drop_compute(self) -> None:
        self.hung = False  # what hangs is the engine that is being reset
        self.compute.drop()

    @property
    def elapsed_ns(self) -> float:
        """Virtual time until everything that was submitted is done."""
        times = [timeline.now_ns for timeline in self._compute_time]
        return max([self.meter.now_ns, *times])

    def _others_wait_for(self, done: Timeline) -> None:
        if self.sdma.waiting:
            self.sdma.timeline.follow(done)
        for queue in self.compute.queues.values():
            if queue.waiting:
                queue.timeline.follow(done)

    def _timeline(self) -> Timeline:
        made = Timeline(self.meter, self._compute_time)
        self._compute_time.append(made)
        return made

    def _clock(self) -> int:
        return int(self.elapsed_ns / CLOCK_TICK_NS)

    def _processor(self, queue: ComputeQueue) -> Processor:
        return Processor(
            self.registers,
            self.tlb,
            self.ih,
            self.programs,
            self._ib_packets,
            queue.timeline,
            self.refuse,
            self._slice,
            self.caches,
            self.nbio.expect_flushed,
            gc_base=BASES[HardwareId.GC][0],
            charge=self._charge,
            caller=lambda: queue.execution,
            can_release=queue.ring.has_end_of_pipe,
            why_not=lambda: self._why_no_programs(queue),
        )

    def _charge(self, cost: Cost) -> float:
        full = self.chip.clock_levels_mhz[Clock.UCLK][-1]
        share = self.smu.mhz(Clock.UCLK) / full
        return dispatch_ns(self.chip, cost, self.smu.mhz(Clock.GFXCLK), share)

    def _why_no_programs(self, queue: ComputeQueue) -> str:
        if not queue.ring.units_enabled:
            return "the queue's descriptor lets no compute unit work"
        return self.gfx.why_shaders_stand()

    def _ring(self, slot: int, value: int) -> None:
        """A doorbell: to the engine that it is routed to, if that engine can hear it."""
        if slot == self.sdma.slot:
            reason = self._why_deaf(slot, (SDMA_ENTRY,)) or self.sdma.why_stands()
            if reason:
                self.refuse(f"a doorbell in slot {slot} while {reason}")
                return
            self.sdma.ring_doorbell(value)
            self._rung(self.sdma)
            return
        queue = self.compute.find(slot)
        if queue is None:
            self.refuse(f"a doorbell in slot {slot}, to which no queue listens")
            return
        reason = self._why_deaf(slot, CP_ENTRIES) or self.gfx.why_mec_stands()
        if not reason and not self.gfx.in_mec_range(slot):
            reason = "it is not among the doorbells that the MEC hears"
        ring = queue.ring
        if not reason and not ring.read_pointer <= value <= ring.read_pointer + ring.dwords:
            reason = f"its write pointer {value:#x} is not {ring.read_pointer:#x} or a ring further"
        if not reason and not ring.has_end_of_pipe:
            reason = "the queue has no end-of-pipe buffer"
        if reason:
            self.refuse(f"a doorbell in slot {slot} while {reason}")
            return
        queue.ring_doorbell(value)
        self._rung(queue)

    def _why_deaf(self, slot: int, entries: tuple[int, ...]) -> str:
        if not self.nbio.hears(slot, entries):
            return "the doorbell aperture or its routing is off"
        return self.gc_hub.why_off() or self.mm_hub.why_off()

    # Resets.

    def mode1_reset(self) -> None:
        """Everything starts over, and memory is lost."""
        log.info("%s: mode1 reset", self.name)
        if self.config.command.bus_master:
            self.refuse("a mode1 reset while bus mastering is on")
        self.mode1_resets += 1
        self.memory.lose()
        self.hung = self.silent = False
        self._power_on()

    def on_reset(self) -> None:
        self._power_on()

    def _power_on(self) -> None:
        self.compute.drop()
        self.sdma.drop()
        self.tlb.flush()
        self.caches.power_on()
        self.registers.reset()
        for block in (self.gc_hub, self.mm_hub, self.gfx, self.smu, self.psp):
            block.power_on()
        write_discovery(self.chip, self.memory)


def _nothing() -> None:
    """The MM hub translates for nobody here: its clients use MC addresses."""


def _config(chip: Chip, vram: int, bar: int) -> ConfigSpace:
    largest = max(SMALL_BAR, 1 << (vram - 1).bit_length())
    sizes = [] if bar else [SMALL_BAR << n for n in range(20) if SMALL_BAR << n <= largest]
    window = min(max(bar or SMALL_BAR, SMALL_BAR), largest)
    return ConfigSpace(
        vendor=VENDOR_ID,
        device=chip.device_id,
        class_code=CLASS_CODE,
        subsystem=(generic.VENDOR_ID, generic.DEVICE_ID),
        revision=0xC8,
        bars={
            MEMORY_BAR: BarShape(
                window, MEMORY_AT, is_64=True, prefetchable=True, sizes=tuple(sizes)
            ),
            DOORBELL_BAR: BarShape(DOORBELL_BYTES, DOORBELLS_AT, is_64=True, prefetchable=True),
            REGISTER_BAR: BarShape(REGISTER_BYTES, REGISTERS_AT),
        },
    )
