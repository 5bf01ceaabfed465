"""The falcon, NVIDIA's microcontroller, and the RISC-V core beside it: registers and one command.

GSP and SEC2 have one each, alike but for their base. Signed ("heavy-secure") code is brought in by
the falcon's own DMA, 256 bytes a time, checked by its boot ROM and started. The source of that DMA
is what the chosen target understands: an offset in VRAM, or a bus address. One is never the other.

Sources: open-gpu-kernel-modules 570.144, ga102 `dev_falcon_v4.h`, `dev_fbif_v4.h`,
`dev_riscv_pri.h`, `dev_falcon_second_pri.h`, `dev_gsp.h`, `dev_sec_pri.h`; gh100 `dev_falcon_v4.h`;
`kernel_falcon_ga102.c`, `kernel_gsp_falcon_ga102.c` for the order.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Word, at, bits, flag

GSP, SEC2 = 0x11_0000, 0x84_0000
"""Bases of the two falcons in BAR0."""
BLOCK_BYTES = 256
"""What one DMA command moves."""
RESET_HOLD_S = 0.1
"""How long the engine's reset is held, as the public driver does."""


class Hwcfg2(Word):
    """HWCFG2: what the core has, and what it is doing after a reset."""

    riscv = flag(10, "there is a RISC-V core beside the falcon")
    mem_scrubbing = flag(12, "its memories are being cleared")
    riscv_br_priv_lockdown = flag(13, "Hopper and later: the host is locked out")
    reset_ready = flag(31)


class Cpuctl(Word):
    """CPUCTL and CPUCTL_ALIAS."""

    startcpu = flag(1)
    halted = flag(4)
    alias_en = flag(6, "start through CPUCTL_ALIAS")


class Hwcfg(Word):
    imem_size = bits(8, 0, "blocks of 256 bytes")


class Dmactl(Word):
    require_ctx = flag(0)
    dmem_scrubbing = flag(1)
    imem_scrubbing = flag(2)


class DmaSize(IntEnum):
    BYTES_256 = 6


class DmaCommand(Word):
    """DMATRFCMD: writing it starts a transfer, reading it tells of the queue."""

    full = flag(0)
    idle = flag(1)
    sec = bits(3, 2, "1: into secure blocks")
    imem = flag(4)
    write = flag(5, "from the falcon outwards")
    size = bits(10, 8, kind=DmaSize)
    ctxdma = bits(14, 12, "which TRANSCFG")
    set_dmtag = flag(16)


class MemoryPort(Word):
    """IMEMC and DMEMC."""

    offset = bits(7, 2)
    block = bits(23, 8)
    increment_on_write = flag(24)
    secure = flag(28, "IMEMC only")


class EngineReset(Word):
    reset = flag(0)


class TransferTarget(IntEnum):
    """Where FBIF leads a transfer. 0 is not in the published headers; every driver uses it."""

    VRAM = 0
    COHERENT_HOST = 1
    HOST = 2


class TransferConfig(Word):
    """FBIF_TRANSCFG."""

    target = bits(1, 0, kind=TransferTarget)
    physical = flag(2)


class FbifControl(Word):
    allow_phys_no_ctx = flag(7)


class Algorithm(IntEnum):
    AES = 0
    RSA3K = 1


class ModSel(Word):
    algo = bits(7, 0, kind=Algorithm)


class UcodeId(Word):
    val = bits(7, 0)


class RiscvCpuctl(Word):
    halted = flag(4)
    active_stat = flag(7)


class BootControl(Word):
    """RISCV_BCR_CTRL: which of the two cores runs."""

    valid = flag(0)
    core_select = flag(4, "the RISC-V core")
    brfetch = flag(8)


class Falcon(Block):
    """One falcon at its base, with FBIF, its second page and the RISC-V core."""

    SOURCE = "ga102 dev_falcon_v4.h, dev_fbif_v4.h, dev_falcon_second_pri.h, dev_riscv_pri.h"
    IRQSTAT = at(0x008, Word, access="ro")
    IRQMASK = at(0x018, Word, access="ro")
    MAILBOX0 = at(0x040, Word)
    MAILBOX1 = at(0x044, Word)
    OS = at(0x080, Word)
    RM = at(0x084, Word, "BOOT_0 after a reset into falcon mode")
    HWCFG2 = at(0x0F4, Hwcfg2, access="ro")
    CPUCTL = at(0x100, Cpuctl)
    BOOTVEC = at(0x104, Word)
    HWCFG = at(0x108, Hwcfg, access="ro")
    DMACTL = at(0x10C, Dmactl)
    DMATRFBASE = at(0x110, Word, "source >> 8, bits 39:8")
    DMATRFMOFFS = at(0x114, Word, "destination in IMEM or DMEM")
    DMATRFCMD = at(0x118, DmaCommand)
    DMATRFFBOFFS = at(0x11C, Word, "offset from the source base")
    DMATRFBASE1 = at(0x128, Word, "source >> 40, 9 bits")
    CPUCTL_ALIAS = at(0x130, Cpuctl, access="wo")
    IMEMC = at(0x180, MemoryPort, count=4, stride=16)
    IMEMD = at(0x184, Word, count=4, stride=16)
    IMEMT = at(0x188, Word, count=4, stride=16)
    DMEMC = at(0x1C0, MemoryPort, count=8, stride=8)
    DMEMD = at(0x1C4, Word, count=8, stride=8)
    ENGINE = at(0x3C0, EngineReset)
    FBIF_TRANSCFG = at(0x600, TransferConfig, count=8, stride=4)
    FBIF_CTL = at(0x624, FbifControl)
    MOD_SEL = at(0x1180, ModSel)
    BROM_CURR_UCODE_ID = at(0x1198, UcodeId)
    BROM_ENGIDMASK = at(0x119C, Word)
    BROM_PARAADDR = at(0x1210, Word, "where the signature lies in DMEM")
    RISCV_CPUCTL = at(0x1388, RiscvCpuctl, access="ro")
    RISCV_BCR_CTRL = at(0x1668, BootControl)


LOCKED_OUT = 0xBADF_4100
"""High 24 bits of what registers of a core in lockdown read as."""


def is_locked_out(value: int) -> bool:
    """Whether a read came back from a core that the host is still locked out of (FSP boot)."""
    return value & 0xFFFF_FF00 == LOCKED_OUT
