"""SDMA0: the copy engine and its one queue.

Sources: Linux `sdma_v6_0.c`, `sdma_v7_0.c`; values as tinygrad's driver writes them.
"""

from __future__ import annotations

from exosuit.clock import Clock
from exosuit.driver.amd.gfx import SDMA_SLOT
from exosuit.driver.amd.registers import Registers
from exosuit.silicon.amd.sdma_registers import Sdma6, Sdma7
from exosuit.units import GpuAddress

_DOORBELL_ENTRY = 2
_SDMA_RECEIVER = 0xE
_MEMORY_WINDOW = 3
_DOORBELL_DWORDS = 4
_SETTLE_S = 0.01
_CACHED, _WRITE_THROUGH = 2, 3  # L2 policies of reads and writes


class Sdma:
    """SDMA0 of one card."""

    def __init__(self, registers: Registers, clock: Clock) -> None:
        self._registers = registers
        self._sdma = registers.sdma
        self._clock = clock

    def start(self) -> None:
        """Let the engine run."""
        sdma = self._sdma
        sdma.SDMA0_WATCHDOG_CNTL.update(queue_hang_count=100)
        sdma.SDMA0_UTCL1_CNTL.update(resp_mode=3, redo_delay=9)
        sdma.SDMA0_UTCL1_PAGE.update(rd_l2_policy=_CACHED, wr_l2_policy=_WRITE_THROUGH)
        match sdma:
            case Sdma6():
                sdma.SDMA0_UTCL1_PAGE.update(llc_noalloc=True)
                sdma.SDMA0_F32_CNTL.update(halt=False, th1_reset=False)
            case Sdma7():
                sdma.SDMA0_MCU_CNTL.update(halt=False, reset=False)
            case _:
                raise AssertionError(type(sdma).__name__)
        sdma.SDMA0_CNTL.update(trap_enable=True)
        self.route_doorbell()

    def route_doorbell(self) -> None:
        """Let the doorbell of its queue reach it."""
        self._registers.nbio.S2A_DOORBELL_ENTRY_CTRL[_DOORBELL_ENTRY].write(
            enable=True, awid=_SDMA_RECEIVER, range_offset=2 * SDMA_SLOT,
            range_size=_DOORBELL_DWORDS, awaddr_31_28_value=_MEMORY_WINDOW,
        )  # fmt: skip

    def start_queue(
        self,
        ring: GpuAddress,
        ring_bytes: int,
        read_pointer: GpuAddress,
        write_pointer: GpuAddress,
    ) -> None:
        """Give queue 0 its ring, a power of two in size, and let it run from the start."""
        sdma = self._sdma
        sdma.SDMA0_QUEUE0_MINOR_PTR_UPDATE.write(enable=True)
        sdma.SDMA0_QUEUE0_RB_RPTR.write(0)
        sdma.SDMA0_QUEUE0_RB_WPTR.write(0)
        sdma.SDMA0_QUEUE0_RB_BASE.write(address=ring >> 8)
        sdma.SDMA0_QUEUE0_RB_RPTR_ADDR_LO.write(read_pointer & 0xFFFF_FFFF)
        sdma.SDMA0_QUEUE0_RB_RPTR_ADDR_HI.write(read_pointer >> 32)
        sdma.SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_LO.write(write_pointer & 0xFFFF_FFFF)
        sdma.SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_HI.write(write_pointer >> 32)
        sdma.SDMA0_QUEUE0_DOORBELL_OFFSET.write(offset=2 * SDMA_SLOT)
        sdma.SDMA0_QUEUE0_DOORBELL.write(enable=True)
        sdma.SDMA0_QUEUE0_MINOR_PTR_UPDATE.write(0)
        sdma.SDMA0_QUEUE0_RB_CNTL.write(
            rb_enable=True,
            rb_size=(ring_bytes // 4).bit_length() - 1,
            f32_wptr_poll_enable=True,
            rptr_writeback_enable=True,
            rptr_writeback_timer=4,
            rb_priv=True,
        )
        sdma.SDMA0_QUEUE0_IB_CNTL.write(ib_enable=True)

    def stop(self) -> None:
        """Stop the queue and reset the engine, so that it touches no memory any more."""
        sdma = self._sdma
        sdma.SDMA0_QUEUE0_RB_CNTL.update(rb_enable=False)
        sdma.SDMA0_QUEUE0_IB_CNTL.write(0)
        sdma.SDMA0_QUEUE0_DOORBELL.write(0)
        self._registers.gfx.GRBM_SOFT_RESET.write(soft_reset_sdma0=True)
        self._clock.sleep(_SETTLE_S)
        self._registers.gfx.GRBM_SOFT_RESET.write(0)
