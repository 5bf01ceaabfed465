"""The graphics block, as far as computing needs it: GRBM, CP, MEC, RLC, scratch, SH_MEM.

GRBM_GFX_CNTL chooses which micro-engine, pipe, queue and VMID the banked registers mean (queue
descriptors, SH_MEM). Nothing here works before the RLC has loaded every engine's firmware.

Sources: Linux `asic_reg/gc/gc_11_0_0_*.h`, `gc_11_0_3_*.h`, `gc_12_0_0_*.h`, `gfx_v11_0.c`,
`gfx_v12_0.c`.
"""

from __future__ import annotations

from exosuit.datasheet import Block, Word, at, bits, flag


class GrbmControl(Word):
    read_timeout = bits(7, 0)
    report_last_rderr = flag(31)


class GrbmControl12(Word):
    read_timeout = bits(11, 0)
    sed_read_timeout = bits(27, 16)
    report_last_rderr = flag(31)


class GrbmStatus(Word):
    ta_busy = flag(14)
    ge_busy = flag(21)
    spi_busy = flag(22)
    bci_busy = flag(23)
    sc_busy = flag(24)
    any_active = flag(27)
    cp_coherency_busy = flag(28)
    cp_busy = flag(29)
    gui_active = flag(31)


class GrbmStatus2(Word):
    utcl2_busy = flag(15)
    ea_busy = flag(16)
    sdma_busy = flag(21)
    rlc_busy = flag(26)
    tcp_busy = flag(27)
    cpf_busy = flag(28)
    cpc_busy = flag(29)
    cpg_busy = flag(30)


class GrbmSoftReset(Word):
    soft_reset_cp = flag(0)
    soft_reset_rlc = flag(2)
    soft_reset_utcl2 = flag(15)
    soft_reset_gfx = flag(16)
    soft_reset_cpf = flag(17)
    soft_reset_cpc = flag(18)
    soft_reset_cpg = flag(19)
    soft_reset_cac = flag(20)
    soft_reset_ea = flag(22)
    soft_reset_sdma0 = flag(23)
    soft_reset_sdma1 = flag(24)


class GrbmSelect(Word):
    pipeid = bits(1, 0)
    meid = bits(3, 2, "1: MEC")
    vmid = bits(7, 4)
    queueid = bits(10, 8)
    ctxid = bits(13, 11)


class GrbmIndex(Word):
    instance_index = bits(7, 0)
    sa_index = bits(15, 8)
    se_index = bits(23, 16)
    sa_broadcast_writes = flag(29)
    instance_broadcast_writes = flag(30)
    se_broadcast_writes = flag(31)


class GrbmIndex12(GrbmIndex):
    instance_index = bits(6, 0)
    sa_index = bits(9, 8)
    se_index = bits(19, 16)


class CpInterruptControl(Word):
    gpf_int_enable = flag(16)
    cmp_busy_int_enable = flag(18)
    cntx_busy_int_enable = flag(19)
    cntx_empty_int_enable = flag(20)
    gfx_idle_int_enable = flag(21)
    priv_instr_int_enable = flag(22)
    priv_reg_int_enable = flag(23)
    opcode_error_int_enable = flag(24)
    time_stamp_int_enable = flag(26)


class PollControl(Word):
    poll_frequency = bits(15, 0)
    idle_poll_count = bits(31, 16)


class DoorbellRange(Word):
    """A bound of the doorbells that the MEC hears."""

    doorbell = bits(11, 2, "in dwords of the aperture")


class MeControl(Word):
    ce_invalidate_icache = flag(4)
    pfp_invalidate_icache = flag(6)
    me_invalidate_icache = flag(8)
    pfp_pipe0_reset = flag(18)
    pfp_pipe1_reset = flag(19)
    me_pipe0_reset = flag(20)
    me_pipe1_reset = flag(21)
    ce_halt = flag(24)
    pfp_halt = flag(26)
    me_halt = flag(28)


class MecRs64Control(Word):
    mec_invalidate_icache = flag(4)
    mec_pipe0_reset = flag(16)
    mec_pipe1_reset = flag(17)
    mec_pipe2_reset = flag(18)
    mec_pipe3_reset = flag(19)
    mec_pipe0_active = flag(26)
    mec_pipe1_active = flag(27)
    mec_pipe2_active = flag(28)
    mec_pipe3_active = flag(29)
    mec_halt = flag(30)
    mec_step = flag(31)


class ShMemConfig(Word):
    address_mode = bits(0, 0, "0: 64-bit")
    alignment_mode = bits(3, 2, "3: unaligned")
    initial_inst_prefetch = bits(15, 14)
    icache_use_gl1 = flag(18)


class ShMemBases(Word):
    """Bits 63:48 of the apertures by which flat addresses reach scratch and LDS."""

    private_base = bits(15, 0)
    shared_base = bits(31, 16)


class RlcControl(Word):
    rlc_enable_f32 = flag(0)
    force_retry = flag(1)


class RlcSafeMode(Word):
    """Written with `cmd`; the RLC clears `cmd` when it has done so."""

    cmd = flag(0)
    message = bits(4, 1, "1: enter safe mode, 0: leave")
    response = bits(11, 8)


class RlcSrmControl(Word):
    srm_enable = flag(0)
    auto_incr_addr = flag(1)


class RlcSpmControl(Word):
    rlc_spm_vmid = bits(3, 0)


class RlcBootloadStatus(Word):
    gfx_init_done = flag(0)
    rlc_gpm_iram_loaded = flag(3)
    rlc_gpm_iram_done = flag(4)
    bootload_complete = flag(31)


class RlcBootloadStatus12(Word):
    gfx_fuse_dist_done = flag(0)
    gfx_init_done = flag(1)
    gfx_security_policy_loaded = flag(2)
    gfx_security_policy_done = flag(3)
    rlc_gpm_iram_loaded = flag(4)
    rlc_gpm_iram_done = flag(5)
    bootload_complete = flag(31)


class RlcCgcgControl(Word):
    cgcg_en = flag(0)
    cgls_en = flag(1)
    cgls_rep_compansat_delay = bits(7, 2)
    cgcg_gfx_idle_threshold = bits(26, 8)


class RlcMgcgOverride(Word):
    rlc_repeater_fgcg_override = flag(0)
    rlc_cgtt_sclk_override = flag(1)
    gfxip_mgcg_override = flag(2)
    gfxip_cgcg_override = flag(3)
    gfxip_cgls_override = flag(4)
    grbm_cgtt_sclk_override = flag(5)
    gfxip_mgls_override = flag(6)
    gfxip_gfx3d_cg_override = flag(7)
    gfxip_fgcg_override = flag(8)
    gfxip_repeater_fgcg_override = flag(9)
    perfmon_clock_state = flag(10)


class QueueReset(Word):
    reset = flag(0)


class Clocks(Word):
    WIDTH = 64


class Gfx(Block):
    """GC 11.0.0, 11.0.2 and 11.0.3, which agree on these."""

    UNIT = 4
    GRBM_CNTL = at(0xDA0, GrbmControl)
    GRBM_STATUS2 = at(0xDA2, GrbmStatus2, access="ro")
    GRBM_STATUS = at(0xDA4, GrbmStatus, access="ro")
    GRBM_SOFT_RESET = at(0xDA8, GrbmSoftReset)
    CP_STAT = at(0xF40, Word, "0 once the command processor idles", access="ro")
    CP_RB_WPTR_POLL_CNTL = at(0xF62, PollControl)
    GB_ADDR_CONFIG = at(0x13DE, Word)
    CP_INT_CNTL = at(0x1DE9, CpInterruptControl)
    CP_MEC_DOORBELL_RANGE_LOWER = at(0x1DFC, DoorbellRange)
    CP_MEC_DOORBELL_RANGE_UPPER = at(0x1DFD, DoorbellRange)
    CP_PFP_PRGRM_CNTR_START = at(0x1E44, Word)
    CP_ME_PRGRM_CNTR_START = at(0x1E45, Word)
    CP_PFP_PRGRM_CNTR_START_HI = at(0x1E59, Word)
    CP_ME_PRGRM_CNTR_START_HI = at(0x1E79, Word)
    SPI_COMPUTE_QUEUE_RESET = at(0x1F73, QueueReset)
    CP_ME_CNTL = at(0x803, MeControl, segment=1)
    GRBM_GFX_CNTL = at(0x900, GrbmSelect, segment=1)
    RLC_SAFE_MODE = at(0x980, RlcSafeMode, segment=1)
    RLC_SPM_MC_CNTL = at(0x982, RlcSpmControl, segment=1)
    SH_MEM_BASES = at(0x9E3, ShMemBases, "one per VMID", segment=1)
    SH_MEM_CONFIG = at(0x9E4, ShMemConfig, "one per VMID", segment=1)
    TCP_CNTL = at(0x19A2, Word, segment=1)
    SCRATCH_REG = at(0x2040, Word, "kept until a mode1 reset", segment=1, count=8, stride=1)
    GRBM_GFX_INDEX = at(0x2200, GrbmIndex, segment=1)
    CP_MEC_RS64_PRGRM_CNTR_START = at(0x2900, Word, segment=1)
    CP_MEC_RS64_CNTL = at(0x2904, MecRs64Control, segment=1)
    CP_MEC_RS64_PRGRM_CNTR_START_HI = at(0x2938, Word, segment=1)
    RLC_CNTL = at(0x4C00, RlcControl, segment=1)
    RLC_STAT = at(0x4C04, Word, access="ro", segment=1)
    RLC_GPU_CLOCK_COUNT = at(0x4C24, Clocks, "LSB, MSB; 100 MHz", access="ro", segment=1)
    RLC_CGTT_MGCG_OVERRIDE = at(0x4C48, RlcMgcgOverride, segment=1)
    RLC_CGCG_CGLS_CTRL = at(0x4C49, RlcCgcgControl, segment=1)
    RLC_SRM_CNTL = at(0x4C80, RlcSrmControl, segment=1)
    RLC_RLCS_BOOTLOAD_STATUS = at(0x4E82, RlcBootloadStatus, access="ro", segment=1)


class Gfx12(Gfx):
    """GC 12.0.0 and 12.0.1."""

    GRBM_CNTL = at(0xDA0, GrbmControl12)
    GRBM_GFX_INDEX = at(0x2200, GrbmIndex12, segment=1)
    RLC_RLCS_BOOTLOAD_STATUS = at(0x4E7C, RlcBootloadStatus12, access="ro", segment=1)
