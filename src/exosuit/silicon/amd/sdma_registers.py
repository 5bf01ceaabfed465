"""SDMA0, the copy engine: its own registers and those of its queue 0.

Pointers are 64-bit byte counts that never wrap. The engine sits in the graphics block's register
space (GC bases).

Sources: Linux `asic_reg/gc/gc_11_0_0_*.h`, `gc_12_0_0_*.h`, `sdma_v6_0.c`, `sdma_v7_0.c`.
"""

from __future__ import annotations

from exosuit.datasheet import Block, Word, at, bits, flag


class SdmaControl(Word):
    trap_enable = flag(0)
    page_retry_timeout_int_enable = flag(11)
    page_null_int_enable = flag(12)
    page_fault_int_enable = flag(13)
    ctxempty_int_enable = flag(28)


class Watchdog(Word):
    queue_hang_count = bits(7, 0, "in 100 ms")
    cmd_timeout_count = bits(15, 8)


class Utcl1Control(Word):
    redo_delay = bits(4, 0)
    page_wait_delay = bits(8, 5)
    resp_mode = bits(10, 9)
    force_invalidation = flag(14)


class Utcl1Page(Word):
    vm_hole = flag(0)
    req_type = bits(4, 1)
    use_mtype = bits(9, 6)
    rd_l2_policy = bits(13, 12)
    wr_l2_policy = bits(15, 14)
    llc_noalloc = flag(24)


class Utcl1Page7(Utcl1Page):
    vm_hole = None
    invalid_addr = flag(0)
    llc_noalloc = None


class F32Control(Word):
    halt = flag(0)
    th0_reset = flag(9)
    th0_enable = flag(10)
    th1_reset = flag(13)
    th1_enable = flag(14)


class McuControl(Word):
    halt = flag(0)
    reset = flag(1)


class RlcCgcg(Word):
    cgcg_int_enable = flag(1)
    cgcg_idle_hysteresis = bits(31, 16)


class RingControl(Word):
    rb_enable = flag(0)
    rb_size = bits(5, 1, "log2 of the ring's dwords")
    wptr_poll_enable = flag(8)
    rb_swap_enable = flag(9)
    wptr_poll_swap_enable = flag(10)
    f32_wptr_poll_enable = flag(11, "mcu_wptr_poll_enable on SDMA 7")
    rptr_writeback_enable = flag(12)
    rptr_writeback_swap_enable = flag(13)
    rptr_writeback_timer = bits(20, 16)
    rb_priv = flag(23)
    rb_vmid = bits(27, 24)


class Wide(Word):
    WIDTH = 64


class RingBase(Word):
    """GPU virtual address >> 8."""

    WIDTH = 64
    address = bits(55, 0)


class IbControl(Word):
    ib_enable = flag(0)
    ib_swap_enable = flag(4)
    switch_inside_ib = flag(8)
    cmd_vmid = bits(19, 16)


class ContextStatus(Word):
    selected = flag(0)
    use_ib = flag(1)
    idle = flag(2)
    expired = flag(3)
    exception = bits(6, 4)
    ctxsw_able = flag(7)
    preempt_disable = flag(10)
    rptr_wb_idle = flag(11)
    wptr_update_pending = flag(12)


class Doorbell(Word):
    enable = flag(28)
    captured = flag(30)


class DoorbellOffset(Word):
    offset = bits(27, 2, "in dwords of the aperture: twice the slot")


class PointerUpdate(Word):
    enable = flag(0)


class Sdma(Block):
    """What both generations have, at the places of SDMA 6."""

    UNIT = 4
    SDMA0_CNTL = at(0x1C, SdmaControl)
    SDMA0_WATCHDOG_CNTL = at(0x2E, Watchdog)
    SDMA0_UTCL1_CNTL = at(0x3C, Utcl1Control)
    SDMA0_UTCL1_PAGE = at(0x3F, Utcl1Page)
    SDMA0_RLC_CGCG_CTRL = at(0x5C, RlcCgcg)
    SDMA1_RLC_CGCG_CTRL = at(0x65C, RlcCgcg)
    SDMA0_QUEUE0_RB_CNTL = at(0x80, RingControl)
    SDMA0_QUEUE0_RB_BASE = at(0x81, RingBase)
    SDMA0_QUEUE0_RB_RPTR = at(0x83, Wide)
    SDMA0_QUEUE0_RB_WPTR = at(0x85, Wide)
    SDMA0_QUEUE0_RB_RPTR_ADDR_HI = at(0x88, Word)
    SDMA0_QUEUE0_RB_RPTR_ADDR_LO = at(0x89, Word)
    SDMA0_QUEUE0_IB_CNTL = at(0x8A, IbControl)
    SDMA0_QUEUE0_CONTEXT_STATUS = at(0x91, ContextStatus, access="ro")
    SDMA0_QUEUE0_DOORBELL = at(0x92, Doorbell)
    SDMA0_QUEUE0_DOORBELL_OFFSET = at(0xAB, DoorbellOffset)
    SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_HI = at(0xB2, Word)
    SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_LO = at(0xB3, Word)
    SDMA0_QUEUE0_MINOR_PTR_UPDATE = at(0xB5, PointerUpdate)


class Sdma6(Sdma):
    """SDMA 6.0.x: F32 micro-engines."""

    SDMA0_F32_CNTL = at(0x589A, F32Control, segment=1, reset=F32Control(halt=True))


class Sdma7(Sdma):
    """SDMA 7.0.x: one MCU instead of the F32 engines, and most of the queue moved."""

    SDMA0_CNTL = at(0x0D, SdmaControl)
    SDMA0_WATCHDOG_CNTL = at(0x2B, Watchdog)
    SDMA0_UTCL1_CNTL = at(0x35, Utcl1Control)
    SDMA0_UTCL1_PAGE = at(0x38, Utcl1Page7)
    SDMA0_RLC_CGCG_CTRL = at(0x55, RlcCgcg)
    SDMA1_RLC_CGCG_CTRL = at(0x655, RlcCgcg)
    SDMA0_QUEUE0_RB_RPTR_ADDR_LO = at(0x87, Word)
    SDMA0_QUEUE0_RB_RPTR_ADDR_HI = at(0x88, Word)
    SDMA0_QUEUE0_IB_CNTL = at(0x89, IbControl)
    SDMA0_QUEUE0_CONTEXT_STATUS = at(0xB0, ContextStatus, access="ro")
    SDMA0_QUEUE0_DOORBELL = at(0x8F, Doorbell)
    SDMA0_QUEUE0_DOORBELL_OFFSET = at(0x91, DoorbellOffset)
    SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_LO = at(0x98, Word)
    SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_HI = at(0x99, Word)
    SDMA0_QUEUE0_MINOR_PTR_UPDATE = at(0x9B, PointerUpdate)
    SDMA0_MCU_CNTL = at(0x588E, McuControl, segment=1, reset=McuControl(halt=True))
