"""NBIO (RDNA3) and NBIF (RDNA4): the card's PCIe end, and HDP behind BAR 0.

Windows to registers and memory that BAR 5 does not show, the doorbell aperture and its routing,
and the flush of what the host wrote through BAR 0.

Sources: Linux `asic_reg/nbio/nbio_4_3_0_*.h`, `asic_reg/nbif/nbif_6_3_1_*.h`, `asic_reg/hdp/
hdp_6_0_0_*.h`, `nbio_v4_3.c`, `nbif_v6_3_1.c`, `hdp_v6_0.c`.
"""

from __future__ import annotations

from exosuit.datasheet import Block, Word, at, bits, flag

REGISTER_BAR = 5
MEMORY_BAR = 0
DOORBELL_BAR = 2
REGISTER_BYTES = 0x80000
"""What BAR 5 shows of the register space; the rest goes through an index and data pair."""
HDP_FLUSH_OFFSET = 0x7F000
"""Where Linux puts the flush register in BAR 5."""


class MemoryIndex(Word):
    """Low part of an address in local memory for MM_DATA."""

    address = bits(30, 0)
    enable = flag(31)


class DoorbellAperture(Word):
    bif_doorbell_aper_en = flag(0)


class DoorbellEntry(Word):
    """Which part of the doorbell aperture goes to which block."""

    enable = flag(0)
    awid = bits(5, 1, "who gets it: 3 CP, 6 MEC, 0xE SDMA0")
    fence_enable = flag(6)
    range_offset = bits(16, 7, "first dword of the aperture")
    range_size = bits(24, 17, "0 for no bound")
    disable_64bit = flag(25)
    need_deduct_range_offset = flag(26)
    awaddr_31_28_value = bits(31, 28)


class DoorbellInterrupt(Word):
    doorbell_interrupt_status = flag(0)
    ras_cntlr_interrupt_status = flag(1)
    ras_athub_err_event_interrupt_status = flag(2)
    doorbell_interrupt_clear = flag(16)
    ras_cntlr_interrupt_clear = flag(17)
    ras_athub_err_event_interrupt_clear = flag(18)
    ras_cntlr_err_event_interrupt_enable = flag(23)
    doorbell_interrupt_disable = flag(24)
    ras_cntlr_interrupt_disable = flag(25)
    ras_athub_err_event_interrupt_disable = flag(26)


class HdpRemap(Word):
    """Byte offset in BAR 5 at which a write flushes."""

    address = bits(18, 2, "in dwords")


class Strap2(Word):
    strap_no_soft_reset_dev0_f2 = flag(7)


class FlushEngines(Word):
    """One bit per engine that asks for an HDP flush, or is told that it is done."""

    cp = bits(9, 0, "CP0 to CP9")
    sdma0 = flag(10)
    sdma1 = flag(11)


class Nbio(Block):
    """NBIO 4.3.0 (RDNA3). Offsets above BAR 5 are reached by the RSMU pair."""

    UNIT = 4
    BIF_BX0_MM_INDEX = at(0x0, MemoryIndex)
    BIF_BX0_MM_DATA = at(0x1, Word)
    BIF_BX0_MM_INDEX_HI = at(0x6, Word, "address >> 31")
    BIF_BX0_PCIE_INDEX2 = at(0xE, Word, "byte address of any register")
    BIF_BX0_PCIE_DATA2 = at(0xF, Word)
    BIF_BX0_PCIE_INDEX2_HI = at(0x11, Word)
    BIF_BX_PF0_RSMU_INDEX = at(0x0, Word, "byte address of any register", segment=1)
    BIF_BX_PF0_RSMU_DATA = at(0x1, Word, segment=1)
    BIF_BX_PF0_RSMU_INDEX_HI = at(0x2, Word, segment=1)
    RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN = at(0xC0, DoorbellAperture, segment=2)
    RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE = at(0xC3, Word, "in MiB", access="ro", segment=2)
    BIF_BX0_BIF_DOORBELL_INT_CNTL = at(0xFE, DoorbellInterrupt, segment=2)
    BIF_BX_PF0_GPU_HDP_FLUSH_REQ = at(0x106, FlushEngines, segment=2)
    BIF_BX_PF0_GPU_HDP_FLUSH_DONE = at(0x107, FlushEngines, access="ro", segment=2)
    BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL = at(
        0x12D,
        HdpRemap,
        "the reset value is assumed: tinygrad, which only reads it, finds a usable one",
        segment=2,
        reset=HDP_FLUSH_OFFSET,
    )
    BIF_BX0_REMAP_HDP_REG_FLUSH_CNTL = at(0x12E, HdpRemap, segment=2)
    S2A_DOORBELL_ENTRY_CTRL = at(0x4F7640, DoorbellEntry, segment=3, count=16, stride=1)
    RCC_DEV0_EPF2_STRAP2 = at(0xD102, Strap2, segment=5)


class Nbif(Nbio):
    """NBIF 6.3.1 (RDNA4): doorbell routing moved into BAR 5 (GDC_S2A0_S2A_DOORBELL_ENTRY_n)."""

    S2A_DOORBELL_ENTRY_CTRL = at(0x1CB, DoorbellEntry, segment=2, count=16, stride=1)


class HdpMemoryPower(Word):
    atomic_mem_power_ctrl_en = flag(0)
    atomic_mem_power_ls_en = flag(1)
    atomic_mem_power_ds_en = flag(2)
    atomic_mem_power_sd_en = flag(3)
    atomic_mem_idle_hysteresis = bits(6, 4)
    atomic_mem_power_up_recover_delay = bits(13, 8)
    atomic_mem_power_down_enter_delay = bits(15, 14)
    rc_mem_power_ctrl_en = flag(16)
    rc_mem_power_ls_en = flag(17)
    rc_mem_power_ds_en = flag(18)
    rc_mem_power_sd_en = flag(19)
    rc_mem_idle_hysteresis = bits(22, 20)
    rc_mem_power_up_recover_delay = bits(29, 24)
    rc_mem_power_down_enter_delay = bits(31, 30)


class Hdp(Block):
    """HDP 6.0.0 and 7.0.0: the host's data path into local memory."""

    UNIT = 4
    HDP_MEM_POWER_CTRL = at(0xD4, HdpMemoryPower)
