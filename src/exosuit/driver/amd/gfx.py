"""The graphics block: RLC, MEC and the one compute queue, straight on the hardware.

No scheduler runs: queue 0 of pipe 0 is programmed as a descriptor in memory and as registers, and
drains its ring from then on.

Sources: Linux `gfx_v11_0.c`, `gfx_v12_0.c`, `soc21.c`; values as tinygrad's driver writes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.clock import Clock, wait_until
from exosuit.driver.amd import layout
from exosuit.driver.amd.firmware import Engine
from exosuit.driver.amd.host_data import HostData
from exosuit.driver.amd.registers import Registers
from exosuit.driver.boot import poll
from exosuit.silicon.amd.compute import ALL_UNITS
from exosuit.silicon.amd.firmware import PieceType
from exosuit.silicon.amd.gfx import MecRs64Control
from exosuit.silicon.amd.mqd import HEADER, Mqd
from exosuit.units import GpuAddress, VramAddress

MEC_SLOT = 3
"""Doorbell of the first compute ring, in 64-bit slots."""
SDMA_SLOT = 0x100
DOORBELL_SLOTS = 32
"""The MEC hears the first so many slots."""

_MEC = 1  # micro-engine id of the MEC in GRBM_GFX_CNTL
_VMIDS = 16
_TCP_GOLDEN = 0x2000_0000  # Linux' golden value for gfx11; its bits have no names
_SETTLE_S = 0.05
_CP_DOORBELLS = {0: 3, 3: 6}  # routing entry to receiver (CP, MEC)
_MEMORY_WINDOW = 3  # awaddr of doorbells to the graphics block
_ENTER_SAFE_MODE = 1
_SHARED_BASE, _PRIVATE_BASE = 1, 2  # apertures of LDS and scratch: bits 63:48 of flat addresses


@dataclass(frozen=True)
class QueueMemory:
    """Virtual addresses of what a compute queue needs.

    ring_dwords  a power of two
    eop_bytes    end-of-pipe buffer, a power of two; RELEASE_MEM does not work without it
    """

    ring: GpuAddress
    ring_dwords: int
    read_pointer: GpuAddress
    write_pointer: GpuAddress
    eop: GpuAddress
    eop_bytes: int


class Gfx:
    """GC of one card."""

    def __init__(self, registers: Registers, memory: HostData, clock: Clock) -> None:
        self._registers = registers
        self._gfx = registers.gfx
        self._memory = memory
        self._clock = clock

    def wait_autoload(self) -> None:
        """Wait until the RLC has started every engine: both conditions, as Linux has them."""
        status = self._gfx.RLC_RLCS_BOOTLOAD_STATUS
        poll(
            status.read, lambda seen: seen != 0xFFFF_FFFF and bool(seen >> 31), self._clock, 10.0,
            "the start of the graphics engines (RLC)", self._registers.check_alive, 1e-3,
        )  # fmt: skip
        poll(
            self._gfx.CP_STAT.read, lambda seen: seen == 0, self._clock, 10.0,
            "the command processor to come to rest", self._registers.check_alive, 1e-3,
        )  # fmt: skip

    def start(self, engines: dict[PieceType, Engine]) -> None:
        """Everything between the autoload and the first queue, after the hub is set up."""
        gfx = self._gfx
        self._place_programs(engines)
        if self._registers.generation == 11:
            gfx.TCP_CNTL.write(gfx.TCP_CNTL.read() | _TCP_GOLDEN)
        gfx.RLC_CNTL.write(rlc_enable_f32=True)
        gfx.RLC_SRM_CNTL.update(srm_enable=True, auto_incr_addr=True)
        gfx.RLC_SPM_MC_CNTL.write(rlc_spm_vmid=0xF)
        gfx.GRBM_CNTL.update(read_timeout=0xFF)
        for vmid in range(_VMIDS):
            gfx.GRBM_GFX_CNTL.write(vmid=vmid)
            gfx.SH_MEM_CONFIG.write(alignment_mode=3, initial_inst_prefetch=3)
            gfx.SH_MEM_BASES.write(shared_base=_SHARED_BASE, private_base=_PRIVATE_BASE)
        gfx.GRBM_GFX_CNTL.write(0)
        gfx.CP_MEC_DOORBELL_RANGE_LOWER.write(0)
        # The bound counts bytes of slots whose doorbells are dwords apart: 8 for each slot.
        gfx.CP_MEC_DOORBELL_RANGE_UPPER.write(8 * (DOORBELL_SLOTS - 1))
        self.route_doorbells()
        self.run_mec()

    def route_doorbells(self) -> None:
        """Let writes to the doorbell aperture reach the command processor."""
        for entry, receiver in _CP_DOORBELLS.items():
            self._registers.nbio.S2A_DOORBELL_ENTRY_CTRL[entry].write(
                enable=True, awid=receiver, awaddr_31_28_value=_MEMORY_WINDOW
            )

    def run_mec(self) -> None:
        """Let the MEC's first pipe run."""
        self._gfx.CP_MEC_RS64_CNTL.write(mec_pipe0_active=True)
        self._clock.sleep(_SETTLE_S)

    def gate_clocks(self) -> None:
        """Let parts that idle lose their clock; the RLC wants to be asked before."""
        gfx, sdma = self._gfx, self._registers.sdma
        gfx.RLC_SAFE_MODE.write(cmd=True, message=_ENTER_SAFE_MODE)
        poll(
            gfx.RLC_SAFE_MODE.read, lambda seen: not seen.cmd, self._clock, 2.0,
            "the safe mode of the RLC", self._registers.check_alive,
        )  # fmt: skip
        gfx.RLC_CGCG_CGLS_CTRL.write(
            cgcg_en=True, cgls_en=True, cgls_rep_compansat_delay=0xF, cgcg_gfx_idle_threshold=0x36
        )
        gfx.CP_RB_WPTR_POLL_CNTL.write(poll_frequency=0x100, idle_poll_count=0x90)
        gfx.CP_INT_CNTL.update(
            cmp_busy_int_enable=True, cntx_busy_int_enable=True, cntx_empty_int_enable=True
        )
        sdma.SDMA0_RLC_CGCG_CTRL.update(cgcg_int_enable=True)
        sdma.SDMA1_RLC_CGCG_CTRL.update(cgcg_int_enable=True)
        gfx.RLC_CGTT_MGCG_OVERRIDE.write(perfmon_clock_state=True)
        gfx.RLC_SAFE_MODE.write(cmd=True, message=0)

    def reset_mec(self) -> None:
        """Stop every queue of ours and start the MEC afresh: another process left it running."""
        for queue in (0, 1):
            self._select(queue)
            self._stop_selected()
        self._select(None)
        if self._registers.generation == 11:
            self._gfx.GRBM_SOFT_RESET.write(soft_reset_cp=True, soft_reset_cpc=True)
            self._clock.sleep(_SETTLE_S)
            self._gfx.GRBM_SOFT_RESET.write(0)
        self._gfx.CP_MEC_RS64_CNTL.write(MecRs64Control(mec_pipe0_reset=True))
        self._gfx.CP_MEC_RS64_CNTL.write(0)
        self.run_mec()

    def start_queue(self, queue: QueueMemory) -> None:
        """Describe the queue in memory and in registers, and let it run."""
        mqd = Mqd.make(
            header=HEADER,
            **{f"compute_static_thread_mgmt_se{engine}": ALL_UNITS for engine in range(8)},
        )
        descriptor = self._memory.mc(VramAddress(layout.MQD))
        hqd = mqd.registers
        hqd.CP_MQD_BASE_ADDR.write(descriptor)
        hqd.CP_HQD_PERSISTENT_STATE.write(preload_req=True, preload_size=0x55)
        hqd.CP_HQD_PIPE_PRIORITY.write(2)
        hqd.CP_HQD_QUEUE_PRIORITY.write(0xF)
        hqd.CP_HQD_QUANTUM.write(quantum_en=True, quantum_scale=True, quantum_duration=1)
        hqd.CP_HQD_PQ_BASE.write(address=queue.ring >> 8)
        hqd.CP_HQD_PQ_RPTR_REPORT_ADDR.write(queue.read_pointer)
        hqd.CP_HQD_PQ_WPTR_POLL_ADDR.write(queue.write_pointer)
        hqd.CP_HQD_PQ_DOORBELL_CONTROL.write(doorbell_offset=2 * MEC_SLOT, doorbell_en=True)
        hqd.CP_HQD_PQ_CONTROL.write(
            queue_size=queue.ring_dwords.bit_length() - 2, rptr_block_size=5
        )
        hqd.CP_HQD_IB_CONTROL.write(min_ib_avail_size=3)
        # unknown: what Linux writes into this status register for a fresh queue
        hqd.CP_HQD_HQ_STATUS0.write(0x2000_4000)
        hqd.CP_MQD_CONTROL.write(priv_state=True)
        hqd.CP_HQD_EOP_BASE_ADDR.write(address=queue.eop >> 8)
        hqd.CP_HQD_EOP_CONTROL.write(eop_size=(queue.eop_bytes // 4).bit_length() - 2)
        self._memory.write(VramAddress(layout.MQD), bytes(mqd))
        self._memory.flush()
        self._select(0)
        base = self._registers.hqd.address(self._registers.hqd.REGISTERS["CP_HQD_ACTIVE"])
        first = base - self._registers.hqd.REGISTERS["CP_HQD_ACTIVE"].offset
        for offset, value in mqd.register_words():
            self._registers.bus.write32(first + offset, value)
        self._registers.hqd.CP_HQD_ACTIVE.write(active=True)
        self._select(None)

    def stop_queues(self) -> None:
        """Stop the queue, waves included, so that it touches no memory any more."""
        for queue in (0, 1):
            self._select(queue)
            self._stop_selected()
        self._select(None)

    def _stop_selected(self) -> None:
        hqd = self._registers.hqd
        if not hqd.CP_HQD_ACTIVE.read().active:
            return
        hqd.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=2)
        self._gfx.SPI_COMPUTE_QUEUE_RESET.write(reset=True)
        # A queue that does not let go is dealt with by whoever boots the card next.
        wait_until(lambda: not hqd.CP_HQD_ACTIVE.read().active, self._clock, 1.0, 1e-4)

    def _select(self, queue: int | None) -> None:
        """Choose whose banked registers are meant; None for nobody's."""
        if queue is None:
            self._gfx.GRBM_GFX_CNTL.write(0)
        else:
            self._gfx.GRBM_GFX_CNTL.write(meid=_MEC, pipeid=0, queueid=queue)

    def _place_programs(self, engines: dict[PieceType, Engine]) -> None:
        """Tell each micro-engine where its program begins, and let it begin there."""
        gfx = self._gfx
        start = {kind: engine.start >> 2 for kind, engine in engines.items()}
        gfx.GRBM_GFX_CNTL.write(0)
        if PieceType.RS64_PFP in start:
            gfx.CP_PFP_PRGRM_CNTR_START.write(start[PieceType.RS64_PFP] & 0xFFFF_FFFF)
            gfx.CP_PFP_PRGRM_CNTR_START_HI.write(start[PieceType.RS64_PFP] >> 32)
            gfx.CP_ME_CNTL.update(pfp_pipe0_reset=True)
            gfx.CP_ME_CNTL.update(pfp_pipe0_reset=False)
        if PieceType.RS64_ME in start:
            gfx.CP_ME_PRGRM_CNTR_START.write(start[PieceType.RS64_ME] & 0xFFFF_FFFF)
            gfx.CP_ME_PRGRM_CNTR_START_HI.write(start[PieceType.RS64_ME] >> 32)
            gfx.CP_ME_CNTL.update(me_pipe0_reset=True)
            gfx.CP_ME_CNTL.update(me_pipe0_reset=False)
        self._select(0)
        gfx.CP_MEC_RS64_PRGRM_CNTR_START.write(start[PieceType.RS64_MEC] & 0xFFFF_FFFF)
        gfx.CP_MEC_RS64_PRGRM_CNTR_START_HI.write(start[PieceType.RS64_MEC] >> 32)
        gfx.CP_MEC_RS64_CNTL.update(mec_pipe0_reset=True)
        gfx.CP_MEC_RS64_CNTL.update(mec_pipe0_reset=False)
        self._select(None)
