"""The PSP: a boot loader that takes pieces in order, then a ring of commands.

It verifies no signature (nobody can without the vendor's keys), but it wants what hardware wants:
pieces in the boot loader's order, a ring of the right kind, the table of contents before anything
else, the SMU's firmware before its own memory is set up, RLC_G last, and every piece there before
it starts the RLC. What it does not get, it does not start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exosuit.silicon.amd.discovery import Version
from exosuit.silicon.amd.firmware import BOOTLOADER_ORDER, PieceType
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
)
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.registers import Refuse, RegisterFile

OS_VERSION = 0x0031_0000
BAD_ORDER = 0x05
"""What the boot loader puts into the low byte for a piece out of order. `assumed`."""

_ORDER = [command for command, _ in BOOTLOADER_ORDER]
_NEEDED = (BootloaderCommand.LOAD_KEY_DATABASE, BootloaderCommand.LOAD_SYSDRV)

_COMMON = frozenset(
    {
        PieceType.SMU,
        PieceType.SDMA_TH0,
        PieceType.RS64_MEC,
        PieceType.RS64_MEC_P0_STACK,
        PieceType.IMU_I,
        PieceType.IMU_D,
        PieceType.RLC_IRAM,
        PieceType.RLC_DRAM_BOOT,
        PieceType.RLC_G,
    }
)
PIECES: Mapping[int, frozenset[PieceType]] = {
    13: _COMMON | {PieceType.SDMA_TH1, PieceType.RLC_P, PieceType.RLC_V},
    14: _COMMON
    | {
        PieceType.RS64_PFP,
        PieceType.RS64_PFP_P0_STACK,
        PieceType.RS64_ME,
        PieceType.RS64_ME_P0_STACK,
    },
}
"""What must be loaded before the RLC can start everything, by major PSP version."""

TMR_BYTES: Mapping[Version, int] = {(13, 0, 10): 0x150_0000}
"""Answers to LOAD_TOC that differ from 0x130_0000; Navi 32 asks for more (tinygrad #15744), the
very number is `assumed`."""
BOOT_TIME_TMR = frozenset({(14, 0, 2), (14, 0, 3)})
"""Chips whose PSP memory exists from power-on: SETUP_TMR is not sent to them."""


class Psp:
    """MP0.

    started       called when every engine's firmware runs
    smu_loaded    called when the SMU's firmware is there
    mode1_reset   called for the reset that the ring's control register can ask for
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: LocalMemory,
        version: Version,
        refuse: Refuse,
        *,
        is_silent: Callable[[], bool],
        started: Callable[[], None],
        smu_loaded: Callable[[], None],
        mode1_reset: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._version = version
        self._refuse = refuse
        self._is_silent = is_silent
        self._started = started
        self._smu_loaded = smu_loaded
        self._mode1_reset = mode1_reset
        registers.on_write("MP0_C2PMSG_35", self._bootloader)
        registers.on_write("MP0_C2PMSG_64", self._control)
        registers.on_write("MP0_C2PMSG_67", self._submit)
        self.power_on()

    def power_on(self) -> None:
        """As the card's own firmware leaves it: the boot loader waits for its first piece."""
        self.os_runs = False
        self.ring: tuple[int, int] | None = None
        self.pieces: list[PieceType] = []
        self.tmr: tuple[int, int] | None = None
        self._boot: list[BootloaderCommand] = []
        self._toc_loaded = False
        self._read_pointer = 0
        self._kernel_mode = True
        self._registers.put("MP0_C2PMSG_33", FirmwareReady(ready=True))
        self._registers.put("MP0_C2PMSG_35", BootloaderStatus(ready=True))

    # The boot loader.

    def _bootloader(self, index: int, value: int) -> int:
        ready = BootloaderStatus(ready=True)
        if self._is_silent():
            return 0
        try:
            command = BootloaderCommand(value)
        except ValueError:
            self._refuse(f"boot loader command {value:#x}")
            return ready.replace(error=BAD_ORDER)
        if self.os_runs:
            self._refuse(f"{command.name} after the secure OS has started")
            return ready.replace(error=BAD_ORDER)
        address = self._registers.get("MP0_C2PMSG_36") << 20
        if self._memory.at_mc(address, 1 << 20) is None:
            self._refuse(f"{command.name} from {address:#x}, outside local memory")
            return ready.replace(error=BAD_ORDER)
        if self._boot and _ORDER.index(command) <= _ORDER.index(self._boot[-1]):
            self._refuse(f"{command.name} after {self._boot[-1].name}")
            return ready.replace(error=BAD_ORDER)
        if command is BootloaderCommand.LOAD_SOSDRV:
            missing = [needed.name for needed in _NEEDED if needed not in self._boot]
            if missing:
                self._refuse(f"LOAD_SOSDRV without {' and '.join(missing)}")
                return ready.replace(error=BAD_ORDER)
            self._start_os()
        self._boot.append(command)
        return ready

    def _start_os(self) -> None:
        self.os_runs = True
        self._registers.put("MP0_C2PMSG_58", OS_VERSION)
        self._registers.put("MP0_C2PMSG_81", OS_VERSION)
        self._registers.put("MP0_C2PMSG_64", ControlStatus(ready=True))

    # The ring.

    def _control(self, index: int, value: int) -> int:
        if self._is_silent():
            return 0
        if not self.os_runs:
            self._refuse(f"ring control {value:#x} before the secure OS has started")
            return 0
        ready = ControlStatus(ready=True)
        if value == ControlCommand.DESTROY_RINGS:
            self.ring = None
            self._registers.put("MP0_C2PMSG_71", 0)
        elif value in (ControlCommand.CREATE_RING_KM, ControlCommand.CREATE_RING_UM):
            self._create(value == ControlCommand.CREATE_RING_KM)
        elif value == ControlCommand.MODE1_RESET:
            self._mode1_reset()
            return self._registers.get("MP0_C2PMSG_64")
        else:
            self._refuse(f"ring control {value:#x}")
            return ready.replace(status=1)
        return ready

    def _create(self, kernel_mode: bool) -> None:
        address = self._registers.get("MP0_C2PMSG_69") | self._registers.get("MP0_C2PMSG_70") << 32
        size = self._registers.get("MP0_C2PMSG_71")
        if self.ring is not None:
            self._refuse("a second ring of the PSP; destroy the first")
        if size == 0 or size % 64 or self._memory.at_mc(address, size) is None:
            self._refuse(f"a ring of {size} bytes at {address:#x}, outside local memory")
            return
        if not kernel_mode:
            self._refuse("a user-mode ring; the PSP ignores what it holds")
        self.ring = address, size
        self._kernel_mode = kernel_mode
        self._read_pointer = 0
        self._registers.put("MP0_C2PMSG_67", 0)

    def _submit(self, index: int, pointer: int) -> int:
        if self.ring is None:
            self._refuse("a PSP command without a ring")
            return pointer
        address, size = self.ring
        dwords = size // 4
        if pointer % RING_FRAME_DWORDS or pointer > dwords:
            self._refuse(f"a PSP write pointer of {pointer:#x} dwords")
            return pointer
        if self._is_silent() or not self._kernel_mode:
            return pointer
        while self._read_pointer != pointer % dwords:
            at = self._memory.at_mc(address + 4 * self._read_pointer, RingFrame.SIZE)
            assert at is not None
            self._obey_frame(RingFrame(at))
            self._read_pointer = (self._read_pointer + RING_FRAME_DWORDS) % dwords
        return pointer

    def _obey_frame(self, frame: RingFrame) -> None:
        at = frame.command_low | frame.command_high << 32
        place = self._memory.at_mc(at, Command.SIZE)
        fence_at = frame.fence_low | frame.fence_high << 32
        fence = self._memory.at_mc(fence_at, 4)
        if place is None or fence is None:
            self._refuse(f"a PSP frame with its command at {at:#x} and its fence at {fence_at:#x}")
            return
        command = Command(place)
        command.status = self._obey(command)
        fence[:] = frame.fence_value.to_bytes(4, "little")

    def _obey(self, command: Command) -> CommandStatus:
        arguments = command.arguments
        match command.command_id:
            case CommandId.LOAD_TOC:
                return self._load_toc(command, LoadToc(arguments))
            case CommandId.LOAD_IP_FW:
                return self._load_firmware(LoadIpFirmware(arguments))
            case CommandId.SETUP_TMR:
                return self._setup_tmr(SetupTmr(arguments))
            case CommandId.DESTROY_TMR:
                self.tmr = None
                return CommandStatus.OK
            case CommandId.AUTOLOAD_RLC:
                return self._autoload()
            case other:
                self._refuse(f"PSP command {other:#x}")
                return CommandStatus.UNKNOWN_COMMAND

    def _load_toc(self, command: Command, toc: LoadToc) -> CommandStatus:
        at = toc.toc_low | toc.toc_high << 32
        if toc.toc_size == 0 or self._memory.at_mc(at, toc.toc_size) is None:
            self._refuse(f"a table of contents of {toc.toc_size} bytes at {at:#x}")
            return CommandStatus.BAD_PARAMETERS
        self._toc_loaded = True
        command.tmr_size = TMR_BYTES.get(self._version, 0x130_0000)
        return CommandStatus.OK

    def _load_firmware(self, load: LoadIpFirmware) -> CommandStatus:
        at = load.firmware_low | load.firmware_high << 32
        known = PIECES[self._version[0]]
        if load.firmware_type not in known:
            self._refuse(f"firmware of type {load.firmware_type} for a chip that has none")
            return CommandStatus.NOT_SUPPORTED
        piece = PieceType(load.firmware_type)
        if load.firmware_size == 0 or self._memory.at_mc(at, load.firmware_size) is None:
            self._refuse(f"{piece.name} of {load.firmware_size} bytes at {at:#x}")
            return CommandStatus.BAD_PARAMETERS
        if not self._toc_loaded:
            self._refuse(f"{piece.name} before the table of contents")
        if piece is not PieceType.SMU and not self._has_tmr():
            self._refuse(f"{piece.name} before SETUP_TMR")
            return CommandStatus.BAD_PARAMETERS
        if PieceType.RLC_G in self.pieces and piece is not PieceType.RLC_G:
            self._refuse(f"{piece.name} after RLC_G, which must come last")
        self.pieces.append(piece)
        if piece is PieceType.SMU:
            self._smu_loaded()
        return CommandStatus.OK

    def _has_tmr(self) -> bool:
        return self.tmr is not None or self._version in BOOT_TIME_TMR

    def _setup_tmr(self, setup: SetupTmr) -> CommandStatus:
        at = setup.buffer_low | setup.buffer_high << 32
        offset = setup.system_low | setup.system_high << 32
        size = setup.buffer_size
        if self._version in BOOT_TIME_TMR:
            self._refuse("SETUP_TMR, which this chip has had since power-on")
            return CommandStatus.NOT_SUPPORTED
        if (
            size < TMR_BYTES.get(self._version, 0x130_0000)
            or self._memory.at_mc(at, size) is None
            or at % (1 << 20)
        ):
            self._refuse(f"SETUP_TMR of {size:#x} bytes at {at:#x}")
            return CommandStatus.BAD_PARAMETERS
        if setup.flags.virt_phy_addr and at - self._memory.mc_base != offset:
            self._refuse(f"SETUP_TMR at {at:#x} with {offset:#x} as its offset in local memory")
        self.tmr = at, size
        return CommandStatus.OK

    def _autoload(self) -> CommandStatus:
        missing = sorted(piece.name for piece in PIECES[self._version[0]] - set(self.pieces))
        if missing:
            self._refuse(f"AUTOLOAD_RLC without {', '.join(missing)}")
            return CommandStatus.BAD_PARAMETERS
        self._started()
        return CommandStatus.OK
