"""Registers that a host touches before and around the GSP's boot: identity, readiness, windows.

All are offsets in BAR0. A register that is blocked, or is not there, reads as 0xbadfXXXX or
0xbad0XXXX; all ones mean that nobody answers at all.

Sources: open-gpu-kernel-modules 570.144, `swref/published` of turing tu102 (dev_bus, dev_fb,
dev_vm), ampere ga100 (dev_fuse) and ga102 (dev_gc6_island, dev_gsp), hopper gh100 (dev_vm,
dev_xtl_ep_pri), blackwell gb202 (dev_therm); `kernel_gsp_frts_tu102.c`, `kernel_gsp_ga100.c`.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Block, Word, at, bits, flag
from exosuit.silicon.nvidia.chips import Architecture, Boot0, Boot42

REGISTER_BAR, VRAM_BAR, INSTANCE_BAR = 0, 1, 3
REGISTER_BYTES = 16 << 20
SMALL_VRAM_BAR = 256 << 20
"""BAR1 of a card whose BAR was not resized."""
INSTANCE_BAR_BYTES = 32 << 20

VBIOS_AT = 0x30_0000
VBIOS_BYTES = 1 << 20
"""NV_PROM: the VBIOS, as the card shows it once its own firmware has checked it."""
PRAMIN_AT = 0x70_0000
PRAMIN_BYTES = 1 << 20
"""A movable window onto VRAM in BAR0."""
GFW_TIMEOUT_S = 4.0
"""How long the card's own firmware may take after power-on or reset."""


def is_refused(value: int) -> bool:
    """Whether a register answered with the error pattern of the privileged ring."""
    return value >> 16 in (0xBADF, 0xBAD0)


class Target(IntEnum):
    """Where a physical pointer in a bus register leads."""

    VRAM = 0
    COHERENT_HOST = 2
    HOST = 3


class VirtualGpu(Word):
    """NV_PMC_BOOT_1."""

    vgpu = bits(17, 16, "0: a real card")


class Window(Word):
    """Base of the PRAMIN window, in units of 64 KiB."""

    base = bits(23, 0)


class BarBlock(Word):
    """NV_PBUS_BAR1_BLOCK: how BAR1 is translated."""

    pointer = bits(27, 0, "of the instance block, >> 12")
    target = bits(29, 28, kind=Target)
    is_virtual = flag(31)


class BarBlockLow(Word):
    """NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_LOW_ADDR of Hopper and later."""

    is_virtual = flag(9)
    target = bits(11, 10, kind=Target)
    pointer = bits(31, 12)


class PrivilegeMask(Word):
    """Who may read a secure scratch register."""

    read_level_0 = flag(0, "the host may")


class BootProgress(Word):
    """NV_PGC6_AON_SECURE_SCRATCH_GROUP_05(0) and the THERM scratch of later chips."""

    progress = bits(7, 0, "0xff once the card's own firmware (GFW) has finished")


GFW_DONE = 0xFF


class HandOff(Word):
    """NV_PGC6_BSI_SECURE_SCRATCH_14."""

    boot_stage_3_handoff = flag(26)


class Wpr2(Word):
    """NV_PFB_PRI_MMU_WPR2_ADDR_LO and _HI: address >> 12; HI is not 0 while the region is up."""

    address = bits(31, 4, "address >> 12")


class FwsecStatus(Word):
    """NV_PBUS_VBIOS_SCRATCH(0xE), as FWSEC leaves it."""

    sb_error = bits(15, 0)
    frts_error = bits(31, 16, "0: FRTS was made")


FWSEC_STATUS = 0xE
"""Which of the VBIOS scratch registers that is."""


class FuseVersion(Word):
    """NV_FUSE_OPT_FPF_GSP_UCODEn_VERSION, SEC2 too: which release of a program is still taken."""

    data = bits(15, 0, "its highest set bit counts, from 1; 0 for none")

    @property
    def version(self) -> int:
        return self.data.bit_length()


class Bus(Block):
    """What every chip has at the same place."""

    SOURCE = "tu102 dev_bus.h, dev_fb.h; ga102 dev_gc6_island.h"
    VBIOS_SCRATCH = at(0x1400, FwsecStatus, count=64, stride=4)
    BOOT_0 = at(0x0, Boot0, access="ro")
    BOOT_1 = at(0x4, VirtualGpu, access="ro")
    BOOT_42 = at(0xA00, Boot42, access="ro")
    BAR1_BLOCK = at(0x1704, BarBlock)
    WPR2_ADDR_LO = at(0x1F_A824, Wpr2, access="ro")
    WPR2_ADDR_HI = at(0x1F_A828, Wpr2, access="ro")
    BSI_SECURE_SCRATCH_14 = at(0x11_80F8, HandOff, access="ro")
    VRAM_MIB = at(0x11_83A4, Word, "SECURE_SCRATCH_GROUP_42: MiB of VRAM", access="ro")
    GSP_QUEUE_HEAD = at(0x11_0C00, Word, "a write rings the GSP", count=8, stride=8)


class BusTuring(Bus):
    """Turing, Ampere and Ada."""

    BAR0_WINDOW = at(0x1700, Window, "NV_PBUS_BAR0_WINDOW")
    GFW_MASK = at(0x11_8128, PrivilegeMask, access="ro")
    SEC2_FUSES = at(0x82_4140, FuseVersion, "by ucode id, less 1", access="ro", count=16, stride=4)
    UCODE_FUSES = at(0x82_41C0, FuseVersion, "the GSP's", access="ro", count=16, stride=4)
    GFW_PROGRESS = at(0x11_8234, BootProgress, access="ro")


class BusHopper(Bus):
    """Hopper and GB10x."""

    BAR0_WINDOW = at(0x10_FD40, Window, "NV_XAL_EP_BAR0_WINDOW")
    BAR1_BLOCK_LOW = at(0xB8_0F60, BarBlockLow)
    GFW_PROGRESS = at(0x2_00BC, BootProgress, "NV_THERM_I2CS_SCRATCH", access="ro")


class BusBlackwell(Bus):
    """GB20x."""

    BAR0_WINDOW = at(0x10_FD40, Window, "NV_XAL_EP_BAR0_WINDOW")
    BAR1_BLOCK_LOW = at(0xB8_0F60, BarBlockLow)
    GFW_PROGRESS = at(0xAD_00BC, BootProgress, "NV_THERM_I2CS_SCRATCH", access="ro")


BUS_KINDS: dict[Architecture, type[BusTuring | BusHopper | BusBlackwell]] = {
    Architecture.TURING: BusTuring,
    Architecture.AMPERE: BusTuring,
    Architecture.ADA: BusTuring,
    Architecture.HOPPER: BusHopper,
    Architecture.BLACKWELL_1: BusHopper,
    Architecture.BLACKWELL_2: BusBlackwell,
}
"""Which of them a chip has."""
