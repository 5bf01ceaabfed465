"""An NVIDIA card: RTX 3090, RTX 4090 or RTX 5090, from its connector to its engines.

It powers on as a real one does: its own firmware finishes by itself, then everything waits for the
host to have signed code start the GSP. Its state survives clients; a function reset takes it back
here, local memory keeps its bytes. Channels run at doorbells until they are done or wait, and look
again whenever the host may have written what they wait for.
"""

from __future__ import annotations

import logging

from exosuit.silicon import generic
from exosuit.silicon.nvidia.boot import (
    BUS_KINDS,
    GFW_DONE,
    INSTANCE_BAR,
    INSTANCE_BAR_BYTES,
    REGISTER_BAR,
    REGISTER_BYTES,
    SMALL_VRAM_BAR,
    VRAM_BAR,
    BootProgress,
    FuseVersion,
    PrivilegeMask,
)
from exosuit.silicon.nvidia.channel import USERMODE_OFFSET, Usermode, WorkSubmitToken
from exosuit.silicon.nvidia.chips import VENDOR_ID, Start, boot_0, boot_42
from exosuit.silicon.nvidia.falcon import GSP, SEC2
from exosuit.silicon.nvidia.paging import FORMATS, Invalidate, MmuInvalidate
from exosuit.silicon.nvidia.rm import MemoryDescription, Status
from exosuit.silicon.nvidia.rpc import unpack_registry
from exosuit.silicon.pci import LinkStatus
from exosuit.softcard.card import Options, SoftCard
from exosuit.softcard.config import EXPRESS_AT, BarShape, ConfigSpace
from exosuit.softcard.faults import FaultKind
from exosuit.softcard.memory import sparse_memory
from exosuit.softcard.nvidia import vbios
from exosuit.softcard.nvidia.boot import Boot, Protected
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.nvidia.controls import Controls
from exosuit.softcard.nvidia.executor.faults import Engine, Fault, LaunchFault, MmuFault
from exosuit.softcard.nvidia.executor.runlist import Executor
from exosuit.softcard.nvidia.falcon import Falcon
from exosuit.softcard.nvidia.fsp import Fsp
from exosuit.softcard.nvidia.gsp import Gsp, State
from exosuit.softcard.nvidia.mmu import Place, Walker
from exosuit.softcard.nvidia.objects import Objects
from exosuit.softcard.nvidia.products import Product
from exosuit.softcard.nvidia.rpc import Rpc
from exosuit.softcard.nvidia.tlb import AddressSpace
from exosuit.softcard.nvidia.windows import InstanceWindow, MemoryWindow, RegisterWindow
from exosuit.softcard.registers import RegisterFile
from exosuit.units import MiB

log = logging.getLogger(__name__)

LEAST_VRAM = 256 * MiB
REGISTERS_AT = 0xA000_0000
MEMORY_AT = 0x60_0000_0000
INSTANCE_AT = 0x7F_0000_0000
GFW_READS = 3
"""So many looks at its progress find the card's own firmware at work after a reset."""
RETRAIN_KEY = "RMPcieLinkSpeed"
"""Registry key with which firmware leaves the link as it is."""


class NvidiaCard(SoftCard):
    """One of `products.PRODUCTS`.

    Local memory is as large as sold unless the options say otherwise; it is real only where it is
    touched. The window on it is 256 MiB until somebody resizes it; a window that the options give
    stays as it is, as on hosts that cannot resize.

    retrains    the card hangs behind a bridge on which the firmware's training of the link never
                ends, unless the registry tells it not to train
    left_alive  host memory has been taken away that firmware or engines could still have written
    """

    def __init__(self, product: Product, options: Options | None = None) -> None:
        options = options or Options()
        vram = max(options.vram or product.vram_bytes, LEAST_VRAM)
        super().__init__(_config(product, vram, options.bar), options)
        self.name = f"soft:{product.name}"
        self.product = product
        self.retrains = False
        self.left_alive = False
        chip = product.chip
        is_fsp = chip.start is Start.FSP
        self.memory = sparse_memory(vram)
        self.registers = registers = RegisterFile(self.refuse)
        registers.declare(BUS_KINDS[chip.architecture])
        registers.declare(MmuInvalidate, MmuInvalidate.BASE)
        registers.declare(Usermode, USERMODE_OFFSET)
        self.bus = Bus(self, self.memory)
        self.protected = Protected(registers, vram)
        self.executor = Executor(
            product.shape,
            self.meter,
            refuse=self.refuse,
            faulted=self._faulted,
            invalidate_tlb=self._invalidate,
            fails=self._take_program_fault,
            cache=options.cache,
            threads=options.threads,
        )
        self.format = FORMATS[chip.mmu]
        self._walker = Walker(self.format, self.memory, self.bus, self.refuse)
        self._spaces: list[AddressSpace] = []
        self.objects = Objects(
            product,
            self.format,
            self.executor,
            self.refuse,
            make_space=self._make_space,
            userd=self._userd,
            is_free=self.protected.is_free,
        )
        self.controls = Controls(product, vram, self.format, self.objects, self._make_space)
        self._rpc = Rpc(self.objects, self.refuse, self._unload)
        self.gsp = Gsp(
            self.bus,
            self.refuse,
            self._answer,
            has_sequence=not is_fsp,
            is_silent=lambda: self.silent,
            changed=self._gsp_changed,
        )
        self.boot = Boot(
            chip.start,
            registers,
            self.memory,
            self.bus,
            self.protected,
            self.gsp,
            self.refuse,
            self._take_mailbox_fault,
        )
        self.gsp_falcon = self._falcon("GSP", GSP)
        self.boot.falcon = self.gsp_falcon
        self.sec2 = self._falcon("SEC2", SEC2)
        self.fsp: Fsp | None = None
        if is_fsp:
            self.fsp = Fsp(
                registers,
                self.memory,
                self.bus,
                self.refuse,
                start=self.boot.start_fmc,
                is_silent=lambda: self.silent,
                take_error=self._take_mailbox_fault,
            )
        rom = b"" if is_fsp else vbios.make_vbios(product.device_id)
        self.memory_window = MemoryWindow(
            registers, self.memory, self.protected, self.refuse, has_block_low=is_fsp
        )
        self.behind = {
            REGISTER_BAR: RegisterWindow(
                registers, rom, self.memory, self.protected, self.boot, self.refuse
            ),
            VRAM_BAR: self.memory_window,
            INSTANCE_BAR: InstanceWindow(self.refuse),
        }
        self._wire()
        self._mailbox_fault = self._poisoned = False
        self._power_on()

    # What the bus sees.

    def read_bar(self, bar: int, offset: int, size: int) -> bytes | memoryview:
        found = super().read_bar(bar, offset, size)
        return b"\xff" * size if self._link_is_down else found

    def begin_write(self, bar: int, size: int) -> bool:
        return super().begin_write(bar, size) and not self._link_is_down

    def reset(self) -> None:
        if self.gsp.state is State.RUNNING and self.config.command.bus_master:
            self.refuse("a reset while the firmware runs and the card masters the bus")
        super().reset()

    def suffer(self, kind: FaultKind) -> None:
        match kind:
            case FaultKind.CRASH:
                self.gsp.crash("by the schedule of faults")
            case FaultKind.MAILBOX:
                self._mailbox_fault = True
            case FaultKind.RETRAIN:
                self._train()
            case FaultKind.POISON:
                self._poisoned = True
            case _:
                pass

    def calm(self) -> None:
        super().calm()
        self._mailbox_fault = False

    @property
    def needs_power(self) -> bool:
        return self._poisoned or self._link_is_down

    @property
    def elapsed_ns(self) -> float:
        """Virtual time until everything that was submitted is done."""
        return self.executor.elapsed_ns

    # Engines.

    def step(self) -> bool:
        """Let every channel go as far as it can; whether one of them, or the firmware, waits."""
        self.executor.late = self.late
        waits = self.executor.run()
        self.gsp.flush()
        return waits or self.gsp.is_waiting

    def _ring_doorbell(self, index: int, value: int) -> int:
        token = WorkSubmitToken(value)
        state = self.objects.channels.get(token.channel)
        why = ""
        if state is None:
            why = "no such channel"
        elif token.runlist != state.runlist:
            why = f"its channel is on runlist {state.runlist}"
        elif bool(token.runlist_doorbell) is not self.product.chip.token_enabled:
            why = "bit 30 is not as this chip wants it"
        elif not self.config.command.bus_master:
            why = "bus mastering is off"
        if why or state is None:
            self.refuse(f"a doorbell with token {value:#x}: {why}")
            return value
        missing = state.why_no_context() if self.product.compute in state.setup.classes else ""
        if missing and state.fault is None:
            self.refuse(f"a doorbell of channel {state.number}, whose {missing}")
            channel = self.executor.channels[state.number]
            channel.halt()
            self._faulted(LaunchFault(state.number, Engine.COMPUTE, missing, 0))
        elif self.executor.ring_doorbell(token.channel):
            if self.late:
                self.waiting = True
            else:
                self.run()
        return value

    def _faulted(self, fault: Fault) -> None:
        state = self.objects.channels.get(fault.channel)
        if state is None:
            return
        log.info("%s: channel %d stopped: %s", self.name, fault.channel, fault.detail)
        if isinstance(fault, MmuFault):
            place = state.space.physical(fault.address)
            if place is not None and place[0] is Place.NOWHERE:
                self.bus.panic(f"an access through {fault.address:#x}, to {place[0].value}")
        for other in self.objects.channels.values():
            if other.group == state.group:
                other.fault = other.fault or fault
        self.gsp.tell_fault(state, fault)

    def _take_program_fault(self) -> bool:
        due, self.program_fault = self.program_fault, False
        return due

    def _take_page_fault(self) -> bool:
        due, self.page_fault = self.page_fault, False
        return due

    def _take_mailbox_fault(self) -> bool:
        due, self._mailbox_fault = self._mailbox_fault, False
        return due

    # Translations.

    def _make_space(self, root: int) -> AddressSpace:
        made = AddressSpace(root, self._walker, self.bus, self.refuse, self._take_page_fault)
        self._spaces.append(made)
        return made

    def _invalidate(self) -> None:
        for space in self._spaces:
            space.invalidate()

    def _write_invalidate(self, index: int, value: int) -> int:
        asked = Invalidate(value)
        if not asked.trigger:
            return value
        if not asked.all_va:
            self.refuse(f"a TLB invalidation {value:#x} of less than all addresses")
        if asked.all_pdb:
            self._invalidate()
        else:
            root = self.registers.get("PDB") >> 4 << 12 | self.registers.get("UPPER_PDB") << 40
            for space in self._spaces:
                if space.root == root:
                    space.invalidate()
        if asked.hub_only:
            self.refuse("a TLB invalidation of the hub only: SMs keep theirs")
        return asked.replace(trigger=False)

    def _forget_host(self, view: memoryview) -> None:
        translated = [space.forget_host(view) for space in self._spaces]
        if self.gsp.state is State.RUNNING and self.config.command.bus_master:
            self.left_alive |= any(translated) or self.gsp.knows(view)

    # Firmware.

    def _falcon(self, name: str, base: int) -> Falcon:
        is_gsp = base == GSP
        return Falcon(
            name,
            self.registers,
            base,
            self.memory,
            self.bus,
            self.refuse,
            self.boot.run_gsp if is_gsp else self.boot.run_sec2,
            lambda: self.silent,
            self.boot.gsp_was_reset if is_gsp else lambda: None,
        )

    def _answer(self, function: int, payload: bytes) -> tuple[Status, bytes]:
        return self._rpc.answer(function, payload)

    def _unload(self) -> None:
        self.executor.power_on()
        self.objects.clear()
        self._spaces.clear()

    def _gsp_changed(self, state: State) -> None:
        if state is State.RUNNING:
            self.hung = False  # firmware that starts resets every engine
            self.memory_window.close()
            registry = unpack_registry(self.gsp.registry)
            if self.retrains and RETRAIN_KEY not in registry:
                self._train()
        if state in (State.STOPPED, State.UNLOADED):
            self.gsp_falcon.riscv_active = False

    def _train(self) -> None:
        """The link goes down to come up faster, and does not come up."""
        self._link_is_down = True
        status = LinkStatus(self.config.read(EXPRESS_AT + 0x12, 2))
        self.config.put(EXPRESS_AT + 0x12, status.replace(training=True, active=False), 2)

    def _userd(self, memory: MemoryDescription) -> _Userd:
        return _Userd(self, memory.base, is_local=memory.address_space == 2)

    # Resets.

    def on_reset(self) -> None:
        self._power_on()

    def _power_on(self) -> None:
        was_up = (
            self.registers.get("WPR2_ADDR_LO"),
            self.registers.get("WPR2_ADDR_HI"),
            self.protected.start,
        )
        self.registers.reset()
        self._link_is_down = False
        self._gfw_reads = GFW_READS
        self.executor.power_on()
        self.objects.clear()
        self._spaces.clear()
        for part in (self.boot, self.gsp, self.gsp_falcon, self.sec2, self.fsp, self.memory_window):
            if part is not None:
                part.power_on()
        self.protected.lower()
        if self._poisoned and was_up[1]:
            self.registers.put("WPR2_ADDR_LO", was_up[0])
            self.registers.put("WPR2_ADDR_HI", was_up[1])
            self.protected.start = was_up[2]

    def _wire(self) -> None:
        registers, chip = self.registers, self.product.chip
        read, write = registers.on_read, registers.on_write
        read("BOOT_0", lambda index, stored: boot_0(chip))
        read("BOOT_42", lambda index, stored: boot_42(chip))
        read("VRAM_MIB", lambda index, stored: len(self.memory) // MiB)
        read("GFW_PROGRESS", lambda index, stored: self._progress())
        if chip.start is Start.BOOTER:
            read("GFW_MASK", lambda index, stored: PrivilegeMask(read_level_0=True))
            read("UCODE_FUSES", self._fuse)
            # As on cards that are sold: the booter's file for GA102 has no signature for 0.
            read("SEC2_FUSES", lambda index, stored: FuseVersion(data=1))
        write("GSP_QUEUE_HEAD", self._ring_gsp)
        write("INVALIDATE", self._write_invalidate)
        write("NOTIFY_CHANNEL_PENDING", self._ring_doorbell)
        read("TIME_0", lambda index, stored: int(self.elapsed_ns) & 0xFFFF_FFFF)
        read("TIME_1", lambda index, stored: int(self.elapsed_ns) >> 32)
        self.host.on_unmap = self._forget_host

    def _progress(self) -> int:
        self._gfw_reads = max(self._gfw_reads - 1, 0)
        return BootProgress(progress=GFW_DONE if self._gfw_reads == 0 else 0x10)

    def _fuse(self, index: int, stored: int) -> int:
        """Releases of a program that are still taken, as a bit for the oldest."""
        return FuseVersion(data=1 << vbios.FUSE_VERSION - 1 if index == vbios.UCODE_ID - 1 else 0)

    def _ring_gsp(self, index: int, value: int) -> int:
        if index:
            self.refuse(f"a doorbell of queue {index} of the GSP")
        else:
            self.gsp.ring()
        return value


class _Userd:
    """A channel's control block, in local memory or the host's."""

    def __init__(self, card: NvidiaCard, base: int, *, is_local: bool) -> None:
        self._card = card
        self._base = base
        self._is_local = is_local

    def read32(self, offset: int) -> int:
        at = self._base + offset
        data = self._card.memory[at : at + 4] if self._is_local else self._card.bus.read(at, 4)
        return int.from_bytes(data, "little")

    def write32(self, offset: int, value: int) -> None:
        at, data = self._base + offset, value.to_bytes(4, "little")
        if self._is_local:
            self._card.memory[at : at + 4] = data
        else:
            self._card.bus.write(at, data)


def _config(product: Product, vram: int, bar: int) -> ConfigSpace:
    largest = max(SMALL_VRAM_BAR, 1 << (vram - 1).bit_length())
    sizes = (
        [] if bar else [SMALL_VRAM_BAR << n for n in range(20) if SMALL_VRAM_BAR << n <= largest]
    )
    window = min(max(bar or SMALL_VRAM_BAR, SMALL_VRAM_BAR), largest)
    return ConfigSpace(
        vendor=VENDOR_ID,
        device=product.device_id,
        class_code=0x03_0000,
        subsystem=(generic.VENDOR_ID, generic.DEVICE_ID),
        revision=0xA1,
        bars={
            REGISTER_BAR: BarShape(REGISTER_BYTES, REGISTERS_AT),
            VRAM_BAR: BarShape(
                window, MEMORY_AT, is_64=True, prefetchable=True, sizes=tuple(sizes)
            ),
            INSTANCE_BAR: BarShape(INSTANCE_BAR_BYTES, INSTANCE_AT, is_64=True, prefetchable=True),
        },
    )
