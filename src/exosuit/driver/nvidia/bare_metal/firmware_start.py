"""Starting GSP-RM: by FWSEC and the booter on Ampere and Ada, by the FSP on Blackwell.

Both ends in the same: the GSP's RISC-V core runs the firmware that lies in host memory, with the
arguments that lie beside it. Each method is a step of the boot.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp_tu102.c` (kgspBootstrap_TU102),
`kernel_gsp_gh100.c` (kgspBootstrap_GH100).
"""

from __future__ import annotations

from exosuit.clock import Clock
from exosuit.driver.boot import poll
from exosuit.driver.firmware import FirmwareSource
from exosuit.driver.nvidia.bare_metal import fsp
from exosuit.driver.nvidia.bare_metal.falcon import FalconCore, SignedCode
from exosuit.driver.nvidia.bare_metal.firmware import (
    Bootloader,
    GspImage,
    load_booter,
    load_bootloader,
    load_fmc,
    load_gsp,
)
from exosuit.driver.nvidia.bare_metal.fwsec import prepare_frts, run_frts
from exosuit.driver.nvidia.bare_metal.host_memory import BootPages, Pinned, Queues, place_image
from exosuit.driver.nvidia.bare_metal.layout import Layout, wpr_meta
from exosuit.driver.nvidia.bare_metal.registers import Registers, fuse_version
from exosuit.errors import BootFailed, CorruptFile
from exosuit.silicon.nvidia.boot import BusTuring
from exosuit.silicon.nvidia.chips import Chip, Start
from exosuit.silicon.nvidia.firmware import BooterParameters
from exosuit.silicon.nvidia.fsp import ChainOfTrust
from exosuit.silicon.nvidia.gsp import (
    SIGNATURE_BYTES,
    FmcBootParameters,
    FmcBootRm,
    FmcRm,
    FmcTarget,
    WprMeta,
)
from exosuit.silicon.nvidia.vbios import FRTS_BYTES, Fwsec, read_fwsec

_ACTIVE_S = 4.0


class FirmwareFiles:
    """The files that one chip's boot takes, read and checked before the card is touched."""

    def __init__(self, source: FirmwareSource, chip: Chip) -> None:
        self.gsp: GspImage = load_gsp(source, chip)
        self.bootloader: Bootloader = load_bootloader(source, chip)
        is_fsp = chip.start is Start.FSP
        self.fmc = load_fmc(source, chip) if is_fsp else None
        self.booter = None if is_fsp else load_booter(source, chip)


class FirmwareStart:
    """The start of one card's firmware."""

    def __init__(
        self,
        registers: Registers,
        files: FirmwareFiles,
        layout: Layout,
        pinned: Pinned,
        queues: Queues,
        clock: Clock,
    ) -> None:
        self._registers = registers
        self._files = files
        self._layout = layout
        self._pinned = pinned
        self._clock = clock
        identity = int(registers.bus.BOOT_0.read())
        alive = registers.check_alive
        self.gsp = FalconCore("GSP", registers.gsp, clock, alive, identity)
        self.sec2 = FalconCore("SEC2", registers.sec2, clock, alive, identity)
        self.pages = BootPages(pinned, queues, files.gsp.signature)
        self._meta = self._place_files(registers.chip)
        self._fwsec: Fwsec | None = None

    def _place_files(self, chip: Chip) -> WprMeta:
        """Everything that boot code fetches by itself, in host memory."""
        gsp, bootloader = self._files.gsp, self._files.bootloader
        code = self._pinned.put(bootloader.code)
        meta = wpr_meta(chip, self._layout)
        meta.assign(
            radix3_address=place_image(self._pinned, gsp.image),
            radix3_size=len(gsp.image),
            bootloader_address=code.bus_address(),
            bootloader_size=len(bootloader.code),
            bootloader_code_offset=bootloader.descriptor.monitor_code_offset,
            bootloader_data_offset=bootloader.descriptor.monitor_data_offset,
            bootloader_manifest_offset=bootloader.descriptor.manifest_offset,
            signature_address=self.pages.signature,
            signature_size=SIGNATURE_BYTES,
        )
        self.pages.put_meta(bytes(meta))
        return meta

    # Ampere and Ada.

    def read_vbios(self) -> None:
        """FWSEC out of the VBIOS. Raises CorruptFile where that does not parse."""
        try:
            self._fwsec = read_fwsec(self._registers.read_vbios())
        except CorruptFile:
            self._registers.check_alive()  # a card that goes away reads as nonsense, too
            self._fwsec = read_fwsec(self._registers.read_vbios())

    def run_fwsec(self) -> None:
        """Set memory apart for the firmware: WPR2 is up afterwards."""
        fwsec = self._fwsec
        assert fwsec is not None
        fuses = self._fuses(is_gsp=True, ucode_id=fwsec.descriptor.ucode_id)
        image = prepare_frts(fwsec, fuses, self._layout.frts)
        run_frts(self._registers, self.gsp, fwsec, self._pinned.put(image), self._layout.frts)

    def prepare_core(self) -> None:
        """Put the GSP into its RISC-V core, with the arguments of the firmware in its mailboxes."""
        self.gsp.reset_into_riscv()
        self.give_arguments()

    def give_arguments(self) -> None:
        """Where the libos arguments are."""
        address = self.pages.libos
        self._registers.gsp.MAILBOX0.write(address & 0xFFFF_FFFF)
        self._registers.gsp.MAILBOX1.write(address >> 32)

    def run_booter(self) -> None:
        """Let SEC2 check the firmware, put it into WPR2 and start it."""
        booter = self._files.booter
        assert booter is not None
        fuses = self._fuses(is_gsp=False, ucode_id=BooterParameters.UCODE_ID)
        image = self._pinned.put(booter.signed(fuses))
        self.sec2.reset()
        program = SignedCode(
            title="the booter",
            memory=image,
            code_offset=booter.code_offset,
            code_bytes=booter.code_bytes,
            imem_at=0,
            imem_virtual=booter.code_offset,
            data_offset=booter.data_offset,
            data_bytes=booter.data_bytes,
            dmem_at=0,
            signature_at=booter.signature_at - booter.data_offset,
            engine_mask=BooterParameters.ENGINE_MASK,
            ucode_id=BooterParameters.UCODE_ID,
        )
        mailbox = self.sec2.run(program, self.pages.meta)
        if mailbox:
            self._registers.check_alive()
            raise BootFailed(
                f"the card's booter refuses to start the firmware (mailbox {mailbox:#010x})",
                cause="it found its memory or the firmware not as it should be: a reset that was"
                " only half done, or files of another release",
                next="switch the enclosure off and on; if it stays:  exosuit setup --yes",
                mailbox0=mailbox,
                fuses=fuses,
                vram_bytes=self._layout.vram_bytes,
                wpr_meta=self._meta.explain(),
            )

    def _fuses(self, *, is_gsp: bool, ucode_id: int) -> int:
        board = self._registers.board
        assert isinstance(board, BusTuring)
        fuses = board.UCODE_FUSES if is_gsp else board.SEC2_FUSES
        return fuse_version(self._registers, fuses, ucode_id)

    # Blackwell.

    def ask_fsp(self) -> None:
        """Let the FSP check the FMC and start it on the GSP."""
        fmc = self._files.fmc
        chip = self._registers.chip
        assert fmc is not None
        self.pages.put_fmc(
            bytes(
                FmcBootParameters.make(
                    boot=FmcBootRm.make(
                        target=FmcTarget.COHERENT, meta_size=WprMeta.SIZE,
                        meta_address=self.pages.meta, is_rm_boot=1,
                    ),
                    rm=FmcRm.make(
                        target=FmcTarget.COHERENT, arguments_address=self.pages.libos
                    ),
                )
            )
        )  # fmt: skip
        request = ChainOfTrust.make(
            fmc_address=self._pinned.put(fmc.image).bus_address(),
            frts_from_end=chip.frts_from_end,
            frts_size=FRTS_BYTES,
            hash=fmc.hash,
            public_key=fmc.public_key,
            signature=fmc.signature,
            boot_arguments=self.pages.fmc,
        )
        fsp.start_gsp(self._registers, self._clock, request)

    def wait_unlocked(self) -> None:
        """Until the FMC has handed over to the firmware."""
        fsp.wait_unlocked(self._registers, self._clock, self.pages.fmc)

    # Both.

    def check_runs(self) -> None:
        """Tell the core which boot loader it got, and see that it runs."""
        self._registers.gsp.OS.write(self._files.bootloader.descriptor.app_version)
        poll(
            self._registers.gsp.RISCV_CPUCTL.read, lambda seen: seen.active_stat, self._clock,
            _ACTIVE_S, "GSP: the start of its core", self._registers.check_alive, 1e-3,
        )  # fmt: skip
