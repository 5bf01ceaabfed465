"""One card from power-on to two scheduled channels, without NVIDIA's driver: the steps, in order.

A card that nobody has booted since its power came on goes through all of them; any other is reset
first. A boot that fails although the card answers is tried once more after a reset, since half a
boot cannot be repeated; what fails again is told, and never tried on a timer.

Before host memory is given back, whatever was found or went wrong, the card loses the way to it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from exosuit.clock import Clock
from exosuit.driver.boot import BootStep, Progress, StepReport, run_steps, silent
from exosuit.driver.config_space import ConfigSpace
from exosuit.driver.firmware import FirmwareSource
from exosuit.driver.memory import Memory
from exosuit.driver.nvidia.bare_metal import attach
from exosuit.driver.nvidia.bare_metal import layout as places
from exosuit.driver.nvidia.bare_metal.channels import UserChannels
from exosuit.driver.nvidia.bare_metal.contexts import INTERNAL_CLIENT, Contexts, Window
from exosuit.driver.nvidia.bare_metal.firmware_start import FirmwareFiles, FirmwareStart
from exosuit.driver.nvidia.bare_metal.host_memory import Pinned, make_queues
from exosuit.driver.nvidia.bare_metal.policies import Policy
from exosuit.driver.nvidia.bare_metal.queues import MessageQueues
from exosuit.driver.nvidia.bare_metal.registers import Registers
from exosuit.driver.nvidia.bare_metal.rpc import FirmwareClient, FirmwareRpc
from exosuit.driver.nvidia.bare_metal.sequencer import CpuSequencer
from exosuit.driver.nvidia.bare_metal.vm import AddressSpace
from exosuit.driver.nvidia.bare_metal.vram import Vram
from exosuit.driver.nvidia.objects import Classes
from exosuit.driver.ranges import Ranges
from exosuit.errors import BootFailed, CardError, CardHung, ExosuitError, LinkError
from exosuit.link.function import PciFunction
from exosuit.silicon.nvidia.boot import BarBlock, BarBlockLow, BusTuring
from exosuit.silicon.nvidia.chips import VENDOR_ID, Architecture, Chip, Start
from exosuit.silicon.nvidia.classes import ComputeClass, CopyClass, GpfifoClass, UsermodeClass
from exosuit.silicon.nvidia.paging import FORMATS
from exosuit.silicon.nvidia.rpc import FAST_UNLOAD, Function, SystemInfo, Unloading, pack_registry
from exosuit.units import VramAddress

_READY_S = 20.0
"""How long the firmware may take from the start of its core to INIT_DONE."""
_END_S = 3.0
"""How long it may take to end."""
_MAX_USER_VA = 0x7FFF_FFFF_F000
_CONFIG_MIRROR, _CONFIG_MIRROR_HOPPER, _CONFIG_MIRROR_BYTES = 0x8_8000, 0x9_2000, 0x1000
_BAR0, _BAR1, _BAR3, _SUBSYSTEM, _REVISION = 0x10, 0x14, 0x1C, 0x2C, 0x08
_PARKED = 0x8000_0000
"""In the GSP's mailbox: it could not write to host memory."""

CLASSES: Mapping[Architecture, Classes] = {
    Architecture.AMPERE: Classes(
        UsermodeClass.AMPERE_A, GpfifoClass.AMPERE_A, ComputeClass.AMPERE_B, CopyClass.AMPERE_B
    ),
    Architecture.ADA: Classes(
        UsermodeClass.AMPERE_A, GpfifoClass.AMPERE_A, ComputeClass.ADA_A, CopyClass.AMPERE_B
    ),
    Architecture.BLACKWELL_2: Classes(
        UsermodeClass.BLACKWELL_A,
        GpfifoClass.BLACKWELL_A,
        ComputeClass.BLACKWELL_B,
        CopyClass.BLACKWELL_B,
    ),
}
"""What is asked of each family's firmware. The list of a card's classes is the kernel driver's
own; firmware is not known to have it."""


class Card:
    """A card behind `link`, booted by `boot` and left by `stop`. One thread uses it.

    firmware   where its firmware files come from
    is_pinned  whether the firmware must leave the link's speed alone: the card is behind Intel's
               Thunderbolt bridge (see `policies`)
    """

    def __init__(
        self,
        link: PciFunction,
        firmware: FirmwareSource,
        clock: Clock,
        progress: Progress = silent,
        *,
        is_pinned: bool = False,
    ) -> None:
        self.link = link
        self.clock = clock
        self._source = firmware
        self._progress = progress
        self._is_pinned = is_pinned
        self._config = ConfigSpace(link, VENDOR_ID)
        self._pinned = Pinned(link)
        self._rpc_runs = False
        self._must_reset = False
        self.found = attach.State.COLD
        self.reports: list[StepReport] = []

    # Filled by the boot, in this order.
    chip: Chip
    policy: Policy
    registers: Registers
    vram_bytes: int
    vram: Vram
    rpc: FirmwareRpc
    memory: Memory
    space: AddressSpace
    channels: UserChannels
    _bars: attach.Bars
    _files: FirmwareFiles
    _layout: places.Layout
    _start: FirmwareStart
    _window: Window
    _contexts: Contexts

    def boot(self) -> None:
        """Run every step that the card's state calls for. Raises CardError or LinkError."""
        self._run(self.first_steps())
        self.found = attach.State.USED if self._must_reset else attach.State.COLD
        try:
            self._run(self.next_steps())
        except (BootFailed, CardHung):
            if self._must_reset:
                raise
            # The card answers, but half a boot cannot be gone on with: start it over, once.
            self._must_reset = True
            self._leave()
            self._run(self.next_steps())

    def first_steps(self) -> list[BootStep]:
        """What is done with every card, in whatever state it is."""
        return [
            BootStep("identify", "find out whether this is a card we know", self._identify),
            BootStep("windows", "map its registers and its memory", self._map),
            BootStep("chip", "read from the card which chip it is", self._find_chip),
            BootStep("files", "read the firmware files and check them", self._read_files),
            BootStep("state", "see whether anybody booted it since its power came on", self._look),
        ]

    def next_steps(self) -> list[BootStep]:
        """What the chip and the state that was found call for."""
        reset = BootStep("reset", "start the card over: its firmware is another's", self._reset)
        begin = [
            BootStep("own start", "wait for the card's own firmware", self._wait_started),
            BootStep("host memory", "put the firmware where the card can fetch it", self._pin_host),
        ]
        by_host = [
            BootStep("vbios", "find the card's own FWSEC in it", lambda: self._start.read_vbios()),
            BootStep("fwsec", "set memory apart for firmware", lambda: self._start.run_fwsec()),
            BootStep("core", "choose the GSP's core", lambda: self._start.prepare_core()),
            BootStep("booter", "let SEC2 start the firmware", lambda: self._start.run_booter()),
        ]
        by_fsp = [
            BootStep("fsp", "ask the FSP to start the firmware", lambda: self._start.ask_fsp()),
            BootStep("fmc", "until the GSP is handed over", lambda: self._start.wait_unlocked()),
        ]
        last = [
            BootStep("gsp", "until GSP-RM says that it is up", self._wait_ready),
            BootStep("vram", "open the window, and see that it leads to memory", self._open_vram),
            BootStep("addresses", "give the card page tables", self._make_space),
            BootStep("golden", "let it make the context that all others copy", self._make_golden),
            BootStep("channels", "a channel for programs and one for copies", self._make_channels),
        ]
        start = by_fsp if self.chip.start is Start.FSP else by_host
        return [*([reset] if self._must_reset else []), *begin, *start, *last]

    def stop(self) -> None:
        """Leave the card; idempotent. Whatever happens, it can reach no host memory afterwards."""
        if self._rpc_runs and self.policy.unload_at_exit:
            # A card that is gone, or hangs, cannot be told; the next process resets it.
            with contextlib.suppress(LinkError, CardError):
                self.registers.check_alive()
                level = bytes(Unloading.make(level=FAST_UNLOAD))
                self.rpc.call(Function.UNLOADING_GUEST_DRIVER, level, "its end", _END_S)
        self._leave()

    def describe(self) -> dict[str, Any]:
        """What the card still tells of itself, for the fields of an error. Raises LinkLost."""
        self.registers.check_alive()
        gsp = self.registers.gsp
        mailbox = int(gsp.MAILBOX0.read())
        facts: dict[str, Any] = {
            "chip": self.chip.name,
            "gsp_mailbox0": mailbox,
            "gsp_mailbox1": int(gsp.MAILBOX1.read()),
            "gsp_riscv": int(gsp.RISCV_CPUCTL.read()),
            "wpr2_high": int(self.registers.bus.WPR2_ADDR_HI.read()),
            "logs": self._start.pages.read_logs(),
        }
        if mailbox == _PARKED:  # else it is an address, and no error
            facts["mailbox0"] = mailbox
        return facts

    def _run(self, steps: list[BootStep]) -> None:
        self.reports += run_steps(steps, self.link, self.clock, self._progress)

    def _leave(self) -> None:
        """Take the way to host memory from the card, then give that back."""
        self._rpc_runs = False
        if self._pinned.is_empty:
            return
        with contextlib.suppress(ExosuitError):
            self._config.let_dma(False)
        self._pinned.free()

    # The steps.

    def _identify(self) -> None:
        self._config.identify()
        self._config.wake()
        self._config.keep_awake()

    def _map(self) -> None:
        self._bars = attach.map_bars(self.link)

    def _find_chip(self) -> None:
        self.chip = attach.find_out(self.link, self._bars)
        self.policy = attach.policy_of(self.chip)
        self.registers = Registers(self.link, self._bars.registers, self.chip)

    def _read_files(self) -> None:
        self._files = FirmwareFiles(self._source, self.chip)

    def _look(self) -> None:
        self._must_reset = attach.find_state(self.registers) is attach.State.USED

    def _reset(self) -> None:
        attach.reset(self.link, self._config, self.registers, self.policy, self.clock)
        self._bars = attach.map_bars(self.link)
        self.registers = Registers(self.link, self._bars.registers, self.chip)
        self.registers.check_alive()
        self._config.keep_awake()
        attach.check_started_over(self.link, self.registers)

    def _wait_started(self) -> None:
        attach.wait_started(self.registers, self.clock)
        self.vram_bytes = attach.read_vram_bytes(self.registers)
        files = self._files
        image, bootloader = len(files.gsp.image), len(files.bootloader.code)
        self._layout = places.plan(self.chip, self.vram_bytes, image, bootloader)

    def _pin_host(self) -> None:
        block = make_queues(self._pinned)
        self._config.let_dma(True)
        self._start = FirmwareStart(
            self.registers, self._files, self._layout, self._pinned, block, self.clock
        )
        queues = MessageQueues(block, lambda: self.registers.bus.GSP_QUEUE_HEAD[0].write(0))
        sequencer = CpuSequencer(
            self.registers, self._start.gsp, self._start.sec2, self.clock,
            self._start.give_arguments,
        )  # fmt: skip
        self.rpc = FirmwareRpc(
            queues, self.clock, sequencer.run, self.describe, self.registers.check_alive
        )
        self.rpc.send(Function.GSP_SET_SYSTEM_INFO, bytes(self._system_info()))
        registry = dict(self.policy.registry)
        if self._is_pinned:
            registry |= self.policy.pinned_link
        self.rpc.send(Function.SET_REGISTRY, pack_registry(registry))

    def _wait_ready(self) -> None:
        self._start.check_runs()
        self.rpc.wait_ready(_READY_S)
        self._rpc_runs = True

    def _open_vram(self) -> None:
        self.registers.bus.BAR1_BLOCK.write(BarBlock())
        board = self.registers.board
        if not isinstance(board, BusTuring):
            board.BAR1_BLOCK_LOW.write(BarBlockLow())
        self.vram = Vram(self._bars.vram, self.policy.burst_bytes)
        self.vram.probe(VramAddress(places.TABLES_BYTES))

    def _make_space(self) -> None:
        format = FORMATS[self.chip.mmu]
        tables = Ranges(places.FIRST_TABLE, places.TABLES_BYTES)
        self.space = AddressSpace(
            format, self.vram, self.registers.mmu, tables, self.clock, self.registers.check_alive
        )
        general = Ranges(places.HOST_WRITTEN, self._layout.free_end)
        self.memory = Memory(self.space, general, Ranges(places.FIRST_VA, places.END_VA))
        self._window = Window(self.vram, self.space)
        self.space.flush()

    def _make_golden(self) -> None:
        client = FirmwareClient(self.rpc, INTERNAL_CLIENT)
        self._contexts = Contexts(client, self.space, self.memory, self._window)
        self._contexts.make_golden(FORMATS[self.chip.mmu], CLASSES[self.chip.architecture])

    def _make_channels(self) -> None:
        self.channels = UserChannels(
            self.chip, self.rpc, self.space, self._bars.vram, self._window, self._contexts,
            CLASSES[self.chip.architecture],
        )  # fmt: skip

    def _system_info(self) -> SystemInfo:
        """What the firmware is told of the bus; addresses as the card's own BARs have them."""
        read = self.link.read_config
        is_hopper = self.chip.architecture.value not in (
            Architecture.AMPERE.value,
            Architecture.ADA.value,
        )
        return SystemInfo.make(
            registers_address=read(_BAR0, 4) & ~0xF,
            memory_address=read(_BAR1, 4) & ~0xF | read(_BAR1 + 4, 4) << 32,
            instance_address=read(_BAR3, 4) & ~0xF | read(_BAR3 + 4, 4) << 32,
            bus_device_function=_location(self.link.name),
            max_user_va=_MAX_USER_VA,
            config_mirror_base=_CONFIG_MIRROR_HOPPER if is_hopper else _CONFIG_MIRROR,
            config_mirror_size=_CONFIG_MIRROR_BYTES,
            pci_device=read(0, 4),
            pci_subsystem=read(_SUBSYSTEM, 4),
            pci_revision=read(_REVISION, 4) & 0xFF,
            is_passthrough=1,
        )


def _location(name: str) -> int:
    """Bus, device and function of `0000:05:00.0`; 0 where the link does not know them."""
    found = re.search(r"[0-9a-f]{4}:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$", name)
    if found is None:
        return 0
    return int(found[1], 16) << 8 | int(found[2], 16) << 3 | int(found[3])
