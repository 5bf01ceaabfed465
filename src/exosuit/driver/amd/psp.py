"""The PSP, which starts everything else: its boot loader, then commands to its secure OS.

Each piece is copied into local memory, and the PSP is told the MC address. Whoever loads firmware
here has no say in what it is: the PSP checks the vendor's signatures.

Sources: Linux `psp_v13_0.c`, `psp_v14_0.c`, `amdgpu_psp.c`.
"""

from __future__ import annotations

from typing import Any

from exosuit.clock import Clock
from exosuit.driver.amd import layout
from exosuit.driver.amd.firmware import Firmware
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.registers import Registers
from exosuit.driver.boot import poll
from exosuit.errors import BootFailed
from exosuit.silicon.amd.discovery import HardwareId
from exosuit.silicon.amd.firmware import PieceType
from exosuit.silicon.amd.psp import (
    RING_FRAME_DWORDS,
    BootloaderCommand,
    BootloaderStatus,
    Command,
    CommandId,
    CommandStatus,
    ControlCommand,
    ControlStatus,
    FirmwareReady,
    LoadIpFirmware,
    LoadToc,
    RingFrame,
    SetupTmr,
    TmrFlags,
)
from exosuit.units import MiB, VramAddress, round_up

BOOT_TIME_TMR = frozenset({(14, 0, 2), (14, 0, 3)})
"""Versions whose PSP has its memory from power-on; SETUP_TMR is not sent to them."""
_STAGED_GRANULE = 16
_SHIFT = 20  # addresses for the boot loader are in MiB
# Linux' waits: 20 ms before the secure OS is looked for and after ring control.
_SETTLE_S = 0.02


class Psp:
    """MP0 of one card. Use in the order of the boot: `load_os`, `make_ring`, `load`."""

    def __init__(self, registers: Registers, memory: HostData, clock: Clock) -> None:
        self._registers = registers
        self._psp = registers.psp
        self._memory = memory
        self._clock = clock
        self._write_pointer = 0
        self._asked = 0
        self.tmr_bytes = 0

    @property
    def os_runs(self) -> bool:
        """Whether the secure OS answers: somebody has booted the card since it was reset."""
        return self._psp.C2PMSG_81.read() != 0

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Wait for the card's own firmware, which runs after power-on and after a reset."""
        poll(
            lambda: FirmwareReady(self._psp.C2PMSG_33.read()),
            lambda seen: seen.ready and seen != 0xFFFF_FFFF,
            self._clock, timeout_s, "its own firmware (C2PMSG_33)",
            self._registers.check_alive, 1e-3,
        )  # fmt: skip

    def load_os(self, firmware: Firmware) -> None:
        """Hand the boot loader its pieces, the secure OS last, and wait until that runs."""
        for command, data in firmware.bootloader:
            self._wait_bootloader(command)
            self._stage(data)
            address = self._memory.mc(VramAddress(layout.PSP_STAGING))
            self._psp.C2PMSG_36.write(address >> _SHIFT)
            self._psp.C2PMSG_35.write(command)
            if command is not BootloaderCommand.LOAD_SOSDRV:
                self._wait_bootloader(command)
        self._clock.sleep(_SETTLE_S)
        poll(
            self._psp.C2PMSG_81.read, lambda seen: seen not in (0, 0xFFFF_FFFF),
            self._clock, 10.0, "the start of the PSP's secure OS (C2PMSG_81)",
            self._registers.check_alive, 1e-3,
        )  # fmt: skip

    def make_ring(self) -> None:
        """Make the ring of commands, of the kernel-mode kind: the other is ignored silently."""
        if self._psp.C2PMSG_71.read() != 0:
            self._psp.C2PMSG_64.write(ControlCommand.DESTROY_RINGS)
            self._clock.sleep(_SETTLE_S)
        self._wait_control("its PSP to be ready for a ring")
        # What the card's memory holds at power-on is anything: the fence must not look written.
        self._memory.write(VramAddress(layout.PSP_FENCE), bytes(4))
        self._memory.flush()
        address = self._memory.mc(VramAddress(layout.PSP_RING))
        self._psp.C2PMSG_69.write(address & 0xFFFF_FFFF)
        self._psp.C2PMSG_70.write(address >> 32)
        self._psp.C2PMSG_71.write(layout.PSP_RING_BYTES)
        self._psp.C2PMSG_64.write(ControlCommand.CREATE_RING_KM)
        self._clock.sleep(_SETTLE_S)
        self._wait_control("the PSP's ring")
        self._write_pointer = poll(
            lambda: int(self._psp.C2PMSG_67.read()), lambda seen: seen < layout.PSP_RING_BYTES // 4,
            self._clock, 1.0, "the write pointer of the PSP's ring", self._registers.check_alive,
        )  # fmt: skip

    def load(self, firmware: Firmware) -> None:
        """Load every piece and let the RLC start the engines."""
        if firmware.toc:
            self._stage(firmware.toc)
            low, high = self._staged()
            arguments = LoadToc.make(toc_low=low, toc_high=high, toc_size=len(firmware.toc))
            self.tmr_bytes = self._ask(CommandId.LOAD_TOC, arguments).tmr_size
        for kind, data in firmware.pieces:
            self._stage(data)
            low, high = self._staged()
            arguments = LoadIpFirmware.make(
                firmware_low=low, firmware_high=high, firmware_size=len(data), firmware_type=kind
            )
            self._ask(CommandId.LOAD_IP_FW, arguments, kind.name)
            if kind is PieceType.SMU:
                self._set_up_memory()
        self._ask(CommandId.AUTOLOAD_RLC)

    def _set_up_memory(self) -> None:
        """Give the PSP room for what it has verified, as much as it asked for."""
        version = self._registers.discovery.version(HardwareId.MP0)
        if version in BOOT_TIME_TMR:
            return
        size = round_up(self.tmr_bytes, MiB)
        address = self._memory.mc(VramAddress(layout.TMR))
        self._ask(
            CommandId.SETUP_TMR,
            SetupTmr.make(
                buffer_low=address & 0xFFFF_FFFF,
                buffer_high=address >> 32,
                buffer_size=size,
                flags=TmrFlags(virt_phy_addr=True),
                system_low=layout.TMR,
            ),
        )

    def _ask(self, id: CommandId, arguments: Any = None, about: str = "") -> Command:
        """Send one command and wait for its answer. Raises BootFailed with the PSP's status."""
        command = Command.make(buffer_size=Command.SIZE, version=1, command_id=id)
        if arguments is not None:
            command.arguments = bytes(arguments)
        self._memory.write(VramAddress(layout.PSP_COMMAND), bytes(command))
        before = self._write_pointer
        self._write_pointer = (before + RING_FRAME_DWORDS) % (layout.PSP_RING_BYTES // 4)
        self._asked += 1
        fence = self._asked
        low, high = _halves(self._memory.mc(VramAddress(layout.PSP_COMMAND)))
        fence_low, fence_high = _halves(self._memory.mc(VramAddress(layout.PSP_FENCE)))
        frame = RingFrame.make(
            command_low=low, command_high=high, command_size=Command.SIZE,
            fence_low=fence_low, fence_high=fence_high, fence_value=fence,
        )  # fmt: skip
        self._memory.write(VramAddress(layout.PSP_RING + 4 * before), bytes(frame))
        self._memory.flush()
        self._psp.C2PMSG_67.write(self._write_pointer)
        title = f"the PSP's {id.name}{' of ' if about else ''}{about}"
        poll(
            lambda: self._memory.read32(VramAddress(layout.PSP_FENCE)),
            lambda seen: seen == fence, self._clock, 10.0, title, self._registers.check_alive, 1e-4,
        )  # fmt: skip
        answer = Command(self._memory.read(VramAddress(layout.PSP_COMMAND), Command.SIZE))
        if answer.status != CommandStatus.OK:
            known = {int(status): status.name for status in CommandStatus}
            shown = known.get(answer.status, "unknown")
            raise BootFailed(
                f"the card refuses {title[4:]} (status {answer.status:#x}, {shown})",
                cause="the firmware file does not suit this card, or is damaged",
                next="exosuit setup --yes",
                command=id.name,
                status=answer.status,
            )
        return answer

    def _stage(self, data: bytes) -> None:
        """Copy a piece to where the PSP reads it."""
        if len(data) > layout.PSP_STAGING_BYTES - _STAGED_GRANULE:
            raise BootFailed(
                f"a piece of firmware has {len(data)} bytes, more than the PSP's buffer",
                cause="the firmware file is damaged, or of another kind",
                next="exosuit setup --yes",
                size=len(data),
            )
        padding = bytes(-len(data) % _STAGED_GRANULE + _STAGED_GRANULE)
        self._memory.write(VramAddress(layout.PSP_STAGING), data + padding)
        self._memory.flush()

    def _staged(self) -> tuple[int, int]:
        return _halves(self._memory.mc(VramAddress(layout.PSP_STAGING)))

    def _wait_bootloader(self, command: BootloaderCommand) -> None:
        status = poll(
            lambda: BootloaderStatus(self._psp.C2PMSG_35.read()),
            lambda seen: seen.ready and seen != 0xFFFF_FFFF,
            self._clock, 10.0, f"the PSP's boot loader at {command.name}",
            self._registers.check_alive, 1e-3,
        )  # fmt: skip
        if status.error:
            raise BootFailed(
                f"the card's boot loader refuses at {command.name} (error {status.error:#x})",
                cause="the firmware file does not suit this card, or is damaged",
                next="exosuit setup --yes",
                command=command.name,
                status=status.error,
            )

    def _wait_control(self, what: str) -> None:
        poll(
            lambda: ControlStatus(self._psp.C2PMSG_64.read()),
            lambda seen: seen.ready and seen.status == 0,
            self._clock, 10.0, what, self._registers.check_alive, 1e-3,
        )  # fmt: skip


def _halves(address: int) -> tuple[int, int]:
    return address & 0xFFFF_FFFF, address >> 32
