"""Signed code of the card's start: FWSEC, the booter, the FMC; and the region that they protect.

Who starts the GSP depends on the chip: on Ampere and Ada the host runs FWSEC on the GSP's falcon
and the booter on SEC2, on Blackwell the FSP starts the FMC. Either way WPR2 is up afterwards, and
only an orderly end or a reset lowers it. Nobody can check signatures here; everything else that
such code relies on is checked. Error codes are `assumed`: NVIDIA does not publish them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum

from exosuit.silicon.nvidia.boot import FWSEC_STATUS, FwsecStatus, HandOff, Wpr2
from exosuit.silicon.nvidia.chips import Start
from exosuit.silicon.nvidia.falcon import LOCKED_OUT, Hwcfg2
from exosuit.silicon.nvidia.falcon import Falcon as FalconRegisters
from exosuit.silicon.nvidia.firmware import BooterParameters
from exosuit.silicon.nvidia.gsp import PAGE, FmcBootParameters, FmcTarget, WprMeta
from exosuit.silicon.nvidia.vbios import DmemMapper, FrtsCommand, InitCommand
from exosuit.softcard.host import HostFault
from exosuit.softcard.nvidia import vbios, wpr
from exosuit.softcard.nvidia.bus import Bus
from exosuit.softcard.nvidia.falcon import Falcon
from exosuit.softcard.nvidia.gsp import Gsp, State
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.units import MiB

log = logging.getLogger(__name__)

_HWCFG2 = FalconRegisters.HWCFG2.description.offset
_LOCKED = Hwcfg2(riscv=True, riscv_br_priv_lockdown=True, reset_ready=True)
LOCKED_READS = 4
"""So many reads of the GSP's registers find it locked after the FSP has started it."""


class BooterError(IntEnum):
    """What the booter leaves in its mailbox. `assumed`, but for what users report as 0xb."""

    BAD_STATE = 0x02
    BAD_INPUT = 0x0B
    SCHEDULED = 0x3F


class FwsecError(IntEnum):
    """What FWSEC leaves in the scratch register. `assumed`."""

    BAD_COMMAND = 0x01
    BAD_REGION = 0x02
    BAD_STATE = 0x03
    SCHEDULED = 0x3F


class Protected:
    """WPR2 and what firmware keeps around it, in local memory."""

    def __init__(self, registers: RegisterFile, size: int) -> None:
        self._registers = registers
        self._size = size
        self.start = size
        self.frts = 0

    @property
    def is_up(self) -> bool:
        return self._registers.get("WPR2_ADDR_HI") != 0

    def raise_frts(self, offset: int, size: int) -> None:
        """FRTS has been made."""
        self.frts = self.start = offset
        self._registers.put("WPR2_ADDR_LO", Wpr2(address=offset >> 12))
        self._registers.put("WPR2_ADDR_HI", Wpr2(address=offset + size >> 12))

    def extend(self, wpr_start: int, reserved: int) -> None:
        """Firmware lies below FRTS now; the host keeps off from `reserved` on."""
        self.start = reserved
        self._registers.put("WPR2_ADDR_LO", Wpr2(address=wpr_start >> 12))

    def lower(self) -> None:
        """All of it is anybody's again."""
        self.start, self.frts = self._size, 0
        self._registers.put("WPR2_ADDR_LO", 0)
        self._registers.put("WPR2_ADDR_HI", 0)

    def is_free(self, offset: int, size: int) -> bool:
        """Whether a range lies in local memory, below what is protected."""
        end = self.start if self.is_up else self._size
        return offset >= 0 and size > 0 and offset + size <= end


class Boot:
    """What runs on the falcons, and what the FSP starts.

    take_error  whether the schedule of faults wants the next piece of code to fail
    """

    def __init__(
        self,
        start: Start,
        registers: RegisterFile,
        memory: memoryview,
        bus: Bus,
        protected: Protected,
        gsp: Gsp,
        refuse: Refuse,
        take_error: Callable[[], bool],
    ) -> None:
        self._start = start
        self._registers = registers
        self._memory = memory
        self._bus = bus
        self._protected = protected
        self._gsp = gsp
        self._refuse = refuse
        self._take_error = take_error
        self.falcon: Falcon | None = None
        self.power_on()

    def power_on(self) -> None:
        self.locked_reads = 0
        self.is_locked = self._start is Start.FSP

    def read_locked(self, offset: int) -> int | None:
        """What a register of the GSP reads as while the host is locked out; None once it is not.

        First nothing at all is let through, then HWCFG2 says that the lock is still there.
        """
        if not self.is_locked:
            return None
        if self.locked_reads == 0:
            return _LOCKED if offset == _HWCFG2 else LOCKED_OUT
        self.locked_reads -= 1
        self.is_locked = self.locked_reads > 0
        if not self.is_locked:
            self._gsp_falcon.put("MAILBOX0", 0)
            self._gsp_falcon.put("MAILBOX1", 0)
        if self.locked_reads < LOCKED_READS // 2 and offset == _HWCFG2:
            return _LOCKED
        return LOCKED_OUT

    @property
    def _gsp_falcon(self) -> Falcon:
        assert self.falcon is not None
        return self.falcon

    def gsp_was_reset(self) -> None:
        """The host has reset the GSP's engine: what ran there does not any more.

        Where no booter has to be asked, an orderly end and this lower WPR2; `assumed`.
        """
        if self._gsp.state in (State.BOOTING, State.RUNNING):
            self._gsp.crash("the host has reset its core")
        elif self._gsp.state is State.UNLOADED and self._start is Start.FSP:
            self._protected.lower()
            self._gsp.power_on()
            self.power_on()

    # The GSP's falcon: FWSEC, or the run that the firmware's sequence asks for.

    def run_gsp(self, falcon: Falcon) -> None:
        if self._gsp.state is State.SUSPENDED:
            falcon.put("MAILBOX0", 0)
            return
        error, why = self._fwsec(falcon)
        if why:
            self._refuse(f"FWSEC: {why}")
        self._registers.put("VBIOS_SCRATCH", FwsecStatus(frts_error=error), FWSEC_STATUS)

    def _fwsec(self, falcon: Falcon) -> tuple[int, str]:
        why = falcon.why_not_signed(vbios.ENGINE_MASK, vbios.UCODE_ID)
        if not why and bytes(falcon.imem[: vbios.CODE_BYTES]) != vbios.code():
            why = "what lies in IMEM is not FWSEC"
        if why:
            falcon.halted = False  # the boot ROM stops for good
            return FwsecError.BAD_COMMAND, why
        place = falcon.get("BROM_PARAADDR")
        given = bytes(falcon.dmem[place : place + 384])
        if given != vbios.signature(vbios.FUSE_VERSION):
            falcon.halted = False
            return FwsecError.BAD_COMMAND, "the signature is not that of these fuses"
        mapper = DmemMapper(falcon.dmem, vbios.MAPPER_AT)
        if mapper.init_cmd == InitCommand.SB:
            return 0, ""
        if mapper.init_cmd != InitCommand.FRTS:
            return FwsecError.BAD_COMMAND, f"command {mapper.init_cmd:#x}"
        if mapper.command_in_offset + FrtsCommand.SIZE > len(falcon.dmem):
            return FwsecError.BAD_COMMAND, "the command does not lie in DMEM"
        command = FrtsCommand(falcon.dmem, mapper.command_in_offset)
        region, reads = command.region, command.read_vbios
        if (region.version, region.size, region.media) != (1, region.SIZE, 2) or (
            reads.version, reads.size
        ) != (1, reads.SIZE):  # fmt: skip
            return FwsecError.BAD_COMMAND, "a command of another version"
        if self._protected.is_up:
            return FwsecError.BAD_STATE, "WPR2 is up"
        if self._take_error():
            return FwsecError.SCHEDULED, ""
        offset, size = region.offset_4k << 12, region.size_4k << 12
        if size != MiB or offset % 0x2_0000 or offset + size > len(self._memory):
            return FwsecError.BAD_REGION, f"FRTS of {size:#x} bytes at {offset:#x}"
        self._protected.raise_frts(offset, size)
        return 0, ""

    # SEC2: the booter.

    def run_sec2(self, falcon: Falcon) -> None:
        if self._gsp.state is State.SUSPENDED:
            self._resume(falcon)
            return
        why = falcon.why_not_signed(BooterParameters.ENGINE_MASK, BooterParameters.UCODE_ID)
        if why:
            self._refuse(f"the booter: {why}")
            falcon.halted = False
            return
        mailbox = falcon.mailbox
        if mailbox == 0xFF | 0xFF << 32:  # what the unloading one is given
            error, why = self._unload()
        else:
            error, why = self._load(mailbox)
        if why:
            self._refuse(f"the booter: {why}")
        falcon.put("MAILBOX0", error)

    def _load(self, address: int) -> tuple[int, str]:
        if not self._protected.is_up or self._gsp.state is not State.OFF:
            return BooterError.BAD_STATE, f"WPR2 is not up, or GSP firmware {self._gsp.state.value}"
        falcon = self._gsp_falcon
        if not falcon.riscv_selected:
            return BooterError.BAD_STATE, "the GSP's RISC-V core is not selected"
        if self._take_error():
            return BooterError.SCHEDULED, ""
        try:
            meta = wpr.read_meta(self._bus, address)
            wpr.check_layout(meta, len(self._memory), self._protected.frts)
            image = wpr.load_image(self._bus, meta)
            wpr.mark_verified(self._bus, address)
        except (wpr.Rejected, HostFault) as error:
            return BooterError.BAD_INPUT, str(error)
        self._memory[meta.image_offset : meta.image_offset + len(image)] = image
        self._protected.extend(meta.wpr_start, meta.reserved_start)
        falcon.riscv_active = True
        why = self._gsp.start(falcon.mailbox)
        if why:
            falcon.riscv_active = False
            return BooterError.BAD_INPUT, why
        return 0, ""

    def _unload(self) -> tuple[int, str]:
        if self._gsp.state is not State.UNLOADED:
            return BooterError.BAD_STATE, f"GSP firmware {self._gsp.state.value}"
        self._protected.lower()
        self._gsp.power_on()
        return 0, ""

    def _resume(self, falcon: Falcon) -> None:
        """The last step of the firmware's sequence."""
        gsp = self._gsp_falcon
        if not gsp.riscv_selected or gsp.mailbox != self._gsp.arguments:
            self._refuse("a resumption with the GSP not reset into RISC-V, or its mailboxes empty")
            falcon.put("MAILBOX0", BooterError.BAD_STATE)
            return
        falcon.put("MAILBOX0", 0)
        gsp.riscv_active = True
        self._registers.put("BSI_SECURE_SCRATCH_14", HandOff(boot_stage_3_handoff=True))
        self._gsp.resume()

    # Blackwell: the FMC, started by the FSP.

    def start_fmc(self, address: int, frts: int, frts_size: int) -> str:
        """Begin with the FMC's parameters at a bus address; why it cannot, or ""."""
        try:
            given = FmcBootParameters(self._bus.read(address, FmcBootParameters.SIZE))
            boot, rm = given.boot, given.rm
            if FmcTarget.COHERENT not in (boot.target, rm.target) or not boot.is_rm_boot:
                return f"FMC parameters with targets {boot.target} and {rm.target}"
            if boot.meta_size != WprMeta.SIZE:
                return f"WPR meta of {boot.meta_size} bytes"
            if self._protected.is_up or self._gsp.state is not State.OFF:
                return f"WPR2 is up, or GSP firmware {self._gsp.state.value}"
            meta = wpr.read_meta(self._bus, boot.meta_address)
            image = wpr.load_image(self._bus, meta)
            wpr.mark_verified(self._bus, boot.meta_address)
        except (wpr.Rejected, HostFault) as error:
            return str(error)
        if meta.frts_size != frts_size:
            return f"FRTS of {meta.frts_size:#x} bytes, and of {frts_size:#x}"
        below = len(image) + meta.bootloader_size + meta.heap_size
        start = (frts - below) & -MiB
        reserved = (start - meta.non_wpr_heap_size) & -MiB
        room = len(self._memory) - frts - frts_size
        if reserved <= 0 or room < meta.pmu_reserved_size + meta.vga_workspace_size:
            return f"a heap of {meta.heap_size:#x} bytes, which local memory has no room for"
        self._protected.raise_frts(frts, frts_size)
        self._protected.extend(start, reserved)
        image_at = (frts - meta.bootloader_size - len(image)) & -PAGE
        self._memory[image_at : image_at + len(image)] = image
        falcon = self._gsp_falcon
        falcon.put("MAILBOX0", address & 0xFFFF_FFFF)
        falcon.put("MAILBOX1", address >> 32)
        falcon.riscv_selected = falcon.riscv_active = True
        self.locked_reads = LOCKED_READS
        return self._gsp.start(rm.arguments_address)
