"""One card from power-on to two running queues: the list of steps, in order.

A cold card goes through all of them; a warm one, which this driver left well, skips what its
firmware still remembers; one in an unknown state is reset first and is cold then. A boot that fails
although the card answers is tried once more after a reset, since half a boot cannot be repeated.
"""

from __future__ import annotations

import contextlib

from exosuit.clock import Clock
from exosuit.driver.amd import attach, layout
from exosuit.driver.amd.copies import Copies
from exosuit.driver.amd.firmware import Firmware, file_names, load_firmware
from exosuit.driver.amd.gfx import MEC_SLOT, SDMA_SLOT, Gfx, QueueMemory
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.hubs import VA_BASE, Hubs
from exosuit.driver.amd.ih import RING_BYTES as INTERRUPT_BYTES
from exosuit.driver.amd.ih import InterruptRing
from exosuit.driver.amd.psp import Psp
from exosuit.driver.amd.registers import RegisterBus, Registers
from exosuit.driver.amd.ring import (
    COMPUTE_READ,
    COMPUTE_WRITE,
    COPY_READ,
    COPY_WRITE,
    INTERRUPTS,
    PAGE_BYTES,
    RING_BYTES,
    Ring,
    SignalPage,
)
from exosuit.driver.amd.sdma import Sdma
from exosuit.driver.amd.smu import Smu
from exosuit.driver.amd.vm import AddressSpace
from exosuit.driver.amd.waiting import Waiting
from exosuit.driver.boot import BootStep, Progress, StepReport, run_steps, silent
from exosuit.driver.config_space import ConfigSpace
from exosuit.driver.faults import Named
from exosuit.driver.firmware import FirmwareSource
from exosuit.driver.memory import Memory
from exosuit.driver.ranges import Ranges
from exosuit.driver.staging import STAGING_BYTES
from exosuit.errors import BootFailed, CardError, LinkError, LinkLost
from exosuit.link.function import DmaMemory, PciFunction
from exosuit.silicon.amd.chips import VENDOR_ID, find_blocks
from exosuit.silicon.amd.discovery import Discovery, HardwareId
from exosuit.silicon.amd.nbio import Nbif
from exosuit.silicon.amd.paging import entry_kind
from exosuit.silicon.amd.pm4 import FILLER
from exosuit.units import GpuAddress, MiB, round_up

_EOP_BYTES = 4096
_NO_MORE = bytes(4)  # a dword that SDMA takes for a NOP


class Card:
    """A card behind `link`, booted by `boot` and left by `stop`. One thread uses it.

    firmware  where its firmware files come from; asked only for a cold boot
    hang_s    a submission that takes longer has hung
    """

    def __init__(
        self,
        link: PciFunction,
        firmware: FirmwareSource,
        clock: Clock,
        hang_s: float = 30.0,
        progress: Progress = silent,
    ) -> None:
        self._link = link
        self._source = firmware
        self._clock = clock
        self._hang_s = hang_s
        self._progress = progress
        self._config = ConfigSpace(link, VENDOR_ID)
        self._boot_bytes = layout.LEAST_BOOT_BYTES
        self._state = attach.State.UNKNOWN
        self.found = attach.State.UNKNOWN
        self.reports: list[StepReport] = []
        self._pinned: list[DmaMemory] = []
        self._queues_run = False

    # Filled by the boot, in this order.
    device_id: int
    vram_bytes: int
    discovery: Discovery
    registers: Registers
    memory: Memory
    waiting: Waiting
    copies: Copies
    compute: Ring
    page: SignalPage
    _revision: int
    _bars: attach.Bars
    _host_data: HostData
    _hubs: Hubs
    _location: tuple[int, int]
    _psp: Psp
    _smu: Smu
    _gfx: Gfx
    _sdma: Sdma
    _firmware: Firmware
    _control: DmaMemory
    _interrupt_memory: DmaMemory
    _staging: DmaMemory
    _interrupts: InterruptRing
    _eop: GpuAddress

    def boot(self) -> None:
        """Run every step that the card's state calls for. Raises CardError or LinkError."""
        self._run(self.first_steps())
        try:
            self._run(self.next_steps())
        except BootFailed:
            if self._state is attach.State.UNKNOWN:
                raise
            # The card answers, but half a boot cannot be gone on with: start it over, once.
            self._state = attach.State.UNKNOWN
            self._run(self.next_steps())

    def first_steps(self) -> list[BootStep]:
        """What is done with every card, in whatever state it is."""
        return [
            BootStep("identify", "find out whether this is a card we know", self._identify),
            BootStep("windows", "map its registers, doorbells and memory", self._map),
            BootStep("discover", "read from the card which blocks it is made of", self._discover),
            BootStep("state", "see who used the card last, and how it was left", self._look),
        ]

    def next_steps(self) -> list[BootStep]:
        """What the state that was found calls for."""
        reset = BootStep("reset", "start the card over: it is in an unknown state", self._reset)
        host = BootStep("host memory", "pin the memory that the card reports into", self._pin_host)
        cold = [
            BootStep("bus", "open the doorbells and the flush of host writes", self._start_bus),
            BootStep("memory hub", "set up how everything but shaders sees memory", self._start_mm),
            BootStep("interrupts", "give the card a place to report faults", self._start_ih),
            BootStep("firmware", "read the firmware files and check them", self._read_firmware),
            BootStep("psp", "start the security processor, which starts the rest", self._start_psp),
            BootStep("load", "load the firmware of every engine", self._load),
            BootStep("smu", "let the card manage its power", self._start_smu),
            BootStep("graphics", "start the engine that runs programs", self._start_gfx),
            BootStep("copy engine", "start the engine that moves data", self._start_sdma),
            BootStep("clocks", "let them go up, and stop where nothing works", self._set_clocks),
        ]
        warm = [
            BootStep("bus", "open the doorbells and the flush of host writes", self._start_bus),
            BootStep("interrupts", "give the card a place to report faults", self._start_ih),
            BootStep("graphics", "take over the engine that runs programs", self._take_gfx),
            BootStep("copy engine", "start the engine that moves data", self._start_sdma),
            BootStep("clocks", "let them go up, and stop where nothing works", self._set_clocks),
        ]
        last = [
            BootStep("page tables", "give programs and queues their addresses", self._map_memory),
            BootStep("queues", "start the queues of programs and of copies", self._start_queues),
        ]
        match self._state:
            case attach.State.WARM:
                return [host, *warm, *last]
            case attach.State.COLD:
                return [host, *cold, *last]
            case attach.State.UNKNOWN:
                return [reset, host, *cold, *last]

    def stop(self) -> None:
        """Leave the card so that the next one can go on with it; idempotent.

        Whatever happens, the card may reach no host memory any more when that is given back. A card
        that is gone, hung or half booted keeps its mark, by which the next process resets it.
        """
        if not self._pinned:
            return
        try:
            if self._queues_run and not isinstance(self.waiting.problem, LinkLost):
                self._end_well(self.waiting.problem is None)
        except (LinkError, CardError):
            pass  # the mark stays
        finally:
            self._queues_run = False
            with contextlib.suppress(LinkError):
                self._config.let_dma(False)
            while self._pinned:
                self._pinned.pop().free()

    def _end_well(self, well: bool) -> None:
        self._sdma.stop()
        self._gfx.stop_queues()
        if well:
            self._smu.lower_clocks()
        self._interrupts.stop()
        attach.mark_ended(self.registers, well)

    def _run(self, steps: list[BootStep]) -> None:
        self.reports += run_steps(steps, self._link, self._clock, self._progress)

    # The steps.

    def _identify(self) -> None:
        self.device_id, self._revision = self._config.identify()
        self._config.wake()
        self._config.keep_awake()

    def _map(self) -> None:
        self._bars = attach.map_bars(self._link)

    def _discover(self) -> None:
        self.vram_bytes, self.discovery = attach.discover(self._link, self._bars, self._clock)
        bus = RegisterBus(self._bars.registers)
        self.registers = Registers(self._link, bus, self.discovery, find_blocks(self.discovery))
        self._hubs = Hubs(self.registers, self._clock)
        self._location = self._hubs.read_location()
        self._host_data = HostData(
            self.registers, self._bars.registers, self._bars.memory, self._location[0]
        )
        self._psp = Psp(self.registers, self._host_data, self._clock)
        self._smu = Smu(self.registers, self._clock)
        self._gfx = Gfx(self.registers, self._host_data, self._clock)
        self._sdma = Sdma(self.registers, self._clock)

    def _look(self) -> None:
        self._state = self.found = attach.find_state(self.registers, self._psp)
        if self._state is attach.State.WARM:
            self._boot_bytes = attach.boot_bytes(self.registers)

    def _reset(self) -> None:
        ladder = attach.Reset(
            self._link, self._config, self.registers, self._host_data, self._clock
        )
        ladder.run()
        self._bars = attach.map_bars(self._link)
        self._discover()

    def _pin_host(self) -> None:
        if not self._pinned:
            self._control = self._pin(PAGE_BYTES + 2 * RING_BYTES)
            self._interrupt_memory = self._pin(INTERRUPT_BYTES, contiguous=True)
            self._staging = self._pin(STAGING_BYTES)
        self._config.let_dma(True)
        self._interrupts = InterruptRing(
            self.registers, self._interrupt_memory, self._control, INTERRUPTS
        )

    def _pin(self, size: int, *, contiguous: bool = False) -> DmaMemory:
        self._pinned.append(self._link.allocate_dma(size, contiguous=contiguous))
        return self._pinned[-1]

    def _start_bus(self) -> None:
        attach.mark_booting(self.registers, self._boot_bytes)
        nbio = self.registers.nbio
        if not isinstance(nbio, Nbif):
            nbio.RCC_DEV0_EPF2_STRAP2.update(strap_no_soft_reset_dev0_f2=False)
        nbio.RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN.write(bif_doorbell_aper_en=True)
        self._host_data.place_flush()

    def _start_mm(self) -> None:
        self._hubs.set_up(self._hubs.memory, self._location)

    def _start_ih(self) -> None:
        self._interrupts.start()

    def _read_firmware(self) -> None:
        names = file_names(self.discovery, self.device_id, self._revision)
        version = self.discovery.version(HardwareId.MP0)
        self._firmware = load_firmware(self._source, names, version)

    def _start_psp(self) -> None:
        self._psp.wait_ready()
        self._psp.load_os(self._firmware)
        self._psp.make_ring()

    def _load(self) -> None:
        self._psp.load(self._firmware)
        end = layout.TMR + round_up(self._psp.tmr_bytes, MiB)
        self._boot_bytes = max(layout.LEAST_BOOT_BYTES, end)

    def _start_smu(self) -> None:
        self._smu.start(self._host_data)

    def _start_gfx(self) -> None:
        self._gfx.wait_autoload()
        self._hubs.set_up(self._hubs.graphics, self._location)
        self._gfx.start(self._firmware.engines)

    def _take_gfx(self) -> None:
        self._hubs.set_up(self._hubs.graphics, self._location)
        self._gfx.route_doorbells()
        self._gfx.reset_mec()

    def _start_sdma(self) -> None:
        self._sdma.start()
        self.registers.hdp.HDP_MEM_POWER_CTRL.update(
            atomic_mem_power_ctrl_en=True, atomic_mem_power_ds_en=True
        )

    def _set_clocks(self) -> None:
        self._smu.raise_clocks()
        self._gfx.gate_clocks()

    def _map_memory(self) -> None:
        tables = Ranges(self._boot_bytes, self._boot_bytes + layout.TABLES_BYTES)
        kind = entry_kind(self.registers.generation)
        space = AddressSpace(self._host_data, self._hubs, kind, tables)
        general = Ranges(
            self._boot_bytes + layout.TABLES_BYTES, self.vram_bytes - layout.TOP_RESERVED
        )
        self.memory = Memory(space, general, Ranges(VA_BASE, VA_BASE + layout.ADDRESSES))
        control = self.memory.map_host(self._control, "control")
        staging = self.memory.map_host(self._staging, "staging")
        eop = self.memory.take(_EOP_BYTES, "end of pipe")
        space.flush()
        self.page = SignalPage(self._control, GpuAddress(control.address))
        self.page.reset()
        self._eop = GpuAddress(eop.address)
        self.waiting = Waiting(
            self.registers, self._hubs, self.page, self._interrupts, self._clock,
            self._named, self._hang_s,
        )  # fmt: skip
        self.compute = self._ring(
            PAGE_BYTES, (COMPUTE_WRITE, COMPUTE_READ), MEC_SLOT, 4, FILLER.to_bytes(4, "little")
        )
        copies = self._ring(
            PAGE_BYTES + RING_BYTES, (COPY_WRITE, COPY_READ), SDMA_SLOT, 1, _NO_MORE
        )
        self.copies = Copies(
            copies, self.page, self.waiting, self._staging, GpuAddress(staging.address)
        )

    def _start_queues(self) -> None:
        at = self.page.address
        self._gfx.start_queue(
            QueueMemory(
                ring=GpuAddress(at + PAGE_BYTES),
                ring_dwords=RING_BYTES // 4,
                read_pointer=GpuAddress(at + COMPUTE_READ),
                write_pointer=GpuAddress(at + COMPUTE_WRITE),
                eop=self._eop,
                eop_bytes=_EOP_BYTES,
            )
        )
        self._sdma.start_queue(
            GpuAddress(at + PAGE_BYTES + RING_BYTES), RING_BYTES,
            GpuAddress(at + COPY_READ), GpuAddress(at + COPY_WRITE),
        )  # fmt: skip
        self._queues_run = True
        attach.mark_running(self.registers, self._boot_bytes)

    def _ring(
        self, offset: int, pointers: tuple[int, int], slot: int, unit: int, filler: bytes
    ) -> Ring:
        doorbells = self._bars.doorbells
        return Ring(self._control, offset, self.page, pointers, doorbells, slot, unit, filler)

    def _named(self) -> list[Named]:
        return self.memory.named()
