"""One falcon: its reset into either of its cores, and the run of signed code on it.

The code comes by the falcon's own DMA out of host memory, as the public driver does it: so nothing
is written to VRAM before the firmware is up, and a small window onto it does not matter.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp_falcon_ga102.c` (order of writes),
`kernel_falcon_ga102.c` (resets).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from exosuit.clock import Clock
from exosuit.driver.boot import poll
from exosuit.errors import BootFailed
from exosuit.link.function import DmaMemory
from exosuit.silicon.nvidia.falcon import (
    BLOCK_BYTES,
    RESET_HOLD_S,
    Algorithm,
    BootControl,
    Cpuctl,
    DmaCommand,
    DmaSize,
    EngineReset,
    Falcon,
    TransferTarget,
)

W = TypeVar("W", bound=int)

_TIMEOUT_S, _POLL_S = 4.0, 2e-4


@dataclass(frozen=True)
class SignedCode:
    """A program for a falcon in host memory, contiguous on the bus.

    code_offset, data_offset  of its two parts in the memory
    imem_at, imem_virtual     where code goes, and the address it runs at
    signature_at              of its signature in DMEM
    """

    title: str
    memory: DmaMemory
    code_offset: int
    code_bytes: int
    imem_at: int
    imem_virtual: int
    data_offset: int
    data_bytes: int
    dmem_at: int
    signature_at: int
    engine_mask: int
    ucode_id: int


class FalconCore:
    """The falcon of one engine.

    name   "GSP" or "SEC2"
    boot_0 the card's identity, which a falcon is told after its reset
    """

    def __init__(
        self,
        name: str,
        registers: Falcon,
        clock: Clock,
        check_alive: Callable[[], None],
        boot_0: int,
    ) -> None:
        self._name = name
        self._registers = registers
        self._clock = clock
        self._check_alive = check_alive
        self._boot_0 = boot_0

    def reset(self) -> None:
        """Into its falcon core, with cleared memories."""
        self._reset_engine()
        registers = self._registers
        if not registers.HWCFG2.read().riscv:
            return
        registers.RISCV_BCR_CTRL.write(BootControl(core_select=False))
        self._poll(
            registers.RISCV_BCR_CTRL.read, lambda seen: bool(seen & BootControl(valid=True)),
            "the choice of its core",
        )  # fmt: skip
        registers.RM.write(self._boot_0)

    def reset_into_riscv(self) -> None:
        """Into its RISC-V core, which waits until somebody starts it."""
        self._reset_engine()
        self._registers.RISCV_BCR_CTRL.write(BootControl(core_select=True, brfetch=True))

    def let_dma(self) -> None:
        """Physical addresses without a context, as boot code needs them."""
        self._registers.FBIF_CTL.update(allow_phys_no_ctx=True)
        self._registers.DMACTL.write(0)

    def run(self, program: SignedCode, mailbox: int | None = None) -> int:
        """Run signed code to its end; gives what it left in its first mailbox.

        mailbox  64 bits that the program finds in its two mailboxes
        """
        registers = self._registers
        self.let_dma()
        registers.FBIF_TRANSCFG[0].update(target=TransferTarget.COHERENT_HOST, physical=True)
        base = program.memory.bus_address()
        self._bring(
            DmaCommand(imem=True, sec=1, size=DmaSize.BYTES_256),
            base + program.code_offset - program.imem_virtual,
            program.imem_at, program.imem_virtual, program.code_bytes,
        )  # fmt: skip
        self._bring(
            DmaCommand(size=DmaSize.BYTES_256),
            base + program.data_offset, program.dmem_at, 0, program.data_bytes,
        )  # fmt: skip
        registers.BROM_PARAADDR.write(program.signature_at)
        registers.BROM_ENGIDMASK.write(program.engine_mask)
        registers.BROM_CURR_UCODE_ID.write(val=program.ucode_id)
        registers.MOD_SEL.write(algo=Algorithm.RSA3K)
        registers.BOOTVEC.write(program.imem_virtual)
        if mailbox is not None:
            registers.MAILBOX0.write(mailbox & 0xFFFF_FFFF)
            registers.MAILBOX1.write(mailbox >> 32)
        self.start()
        self.wait_halted(program.title)
        return int(registers.MAILBOX0.read())

    def start(self) -> None:
        """Let the core run from BOOTVEC."""
        if self._registers.CPUCTL.read().alias_en:
            self._registers.CPUCTL_ALIAS.write(Cpuctl(startcpu=True))
        else:
            self._registers.CPUCTL.write(Cpuctl(startcpu=True))

    def wait_halted(self, title: str) -> None:
        """Until the program has ended."""
        self._poll(
            self._registers.CPUCTL.read, lambda seen: bool(seen & Cpuctl(halted=True)),
            f"the end of {title}",
        )  # fmt: skip

    def _reset_engine(self) -> None:
        engine = self._registers.ENGINE
        engine.write(EngineReset(reset=True))
        self._clock.sleep(RESET_HOLD_S)
        engine.write(EngineReset(reset=False))
        self._poll(
            self._registers.HWCFG2.read, lambda seen: not seen.mem_scrubbing,
            "the clearing of its memories",
        )  # fmt: skip

    def _bring(self, command: DmaCommand, source: int, target: int, first: int, size: int) -> None:
        """Bring `size` bytes in, a block at a time; the source counts from `first`."""
        if source % BLOCK_BYTES or source < 0:
            raise BootFailed(
                f"code for {self._name} would come from {source:#x}, no multiple of 256",
                cause="the firmware file or the VBIOS places its parts where no DMA can begin",
                next="exosuit setup --yes",
                source=source,
            )
        registers = self._registers
        self._wait_room()
        registers.DMATRFBASE.write(source >> 8 & 0xFFFF_FFFF)
        registers.DMATRFBASE1.write(source >> 40 & 0x1FF)
        for offset in range(0, size, BLOCK_BYTES):
            if offset:
                self._wait_room()
            registers.DMATRFMOFFS.write(target + offset)
            registers.DMATRFFBOFFS.write(first + offset)
            registers.DMATRFCMD.write(command)
        self._poll(
            registers.DMATRFCMD.read, lambda seen: seen.idle, "its DMA, which does not end",
        )  # fmt: skip

    def _wait_room(self) -> None:
        self._poll(
            self._registers.DMATRFCMD.read, lambda seen: not seen.full,
            "its DMA, which takes no further block",
        )  # fmt: skip

    def _poll(self, read: Callable[[], W], ready: Callable[[W], bool], what: str) -> W:
        return poll(
            read, lambda seen: seen != 0xFFFF_FFFF and ready(seen), self._clock, _TIMEOUT_S,
            f"{self._name}: {what}", self._check_alive, _POLL_S,
        )  # fmt: skip
