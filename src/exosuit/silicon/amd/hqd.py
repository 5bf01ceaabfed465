"""HQD: the hardware queue that the MEC runs, one bank per micro-engine, pipe and queue.

The registers mirror dwords 0x80 to 0xB7 of the queue's descriptor in memory (MQD), one for one;
writing 1 to CP_HQD_ACTIVE starts the queue with what stands in the others. Select the bank with
GRBM_GFX_CNTL first. GC 11 and GC 12 agree on the places and on the fields given here.

Sources: Linux `asic_reg/gc/gc_11_0_0_*.h`, `gc_12_0_0_*.h`, `gfx_v11_0.c`
(gfx_v11_0_compute_mqd_init), `v11_structs.h`.
"""

from __future__ import annotations

from exosuit.datasheet import Block, Word, at, bits, flag

FIRST_REGISTER = 0x1FA9
"""CP_MQD_BASE_ADDR, dword 0x80 of the descriptor."""
REGISTERS = 0x1FE0 - FIRST_REGISTER + 1
"""So many registers in a row, to CP_HQD_PQ_WPTR_HI."""
MQD_FIRST_DWORD = 0x80


class Address(Word):
    """A 64-bit address in a pair of registers."""

    WIDTH = 64


class Page256(Word):
    """A GPU virtual address >> 8, in a pair of registers."""

    WIDTH = 64
    address = bits(39, 0)


class Active(Word):
    active = flag(0)
    busy_gate = flag(1)


class Vmid(Word):
    vmid = bits(3, 0)
    ib_vmid = bits(11, 8)
    vqid = bits(25, 16)


class PersistentState(Word):
    preload_req = flag(0)
    preload_size = bits(17, 8)
    disp_active = flag(31)


class Quantum(Word):
    quantum_en = flag(0)
    quantum_scale = flag(4)
    quantum_duration = bits(13, 8)
    quantum_active = flag(31)


class DoorbellControl(Word):
    doorbell_mode = flag(0)
    doorbell_bif_drop = flag(1)
    doorbell_offset = bits(27, 2, "in dwords of the aperture: twice the slot")
    doorbell_source = flag(28)
    doorbell_schd_hit = flag(29)
    doorbell_en = flag(30)
    doorbell_hit = flag(31)


class QueueControl(Word):
    queue_size = bits(5, 0, "log2 of the ring's dwords, less one")
    rptr_block_size = bits(13, 8)
    queue_full_en = flag(14)
    slot_based_wptr = bits(19, 18)
    exe_disable = flag(23)
    cache_policy = bits(25, 24)
    no_update_rptr = flag(27)
    unord_dispatch = flag(28)
    tunnel_dispatch = flag(29)
    priv_state = flag(30)
    kmd_queue = flag(31)


class IbControl(Word):
    ib_size = bits(19, 0)
    min_ib_avail_size = bits(21, 20)
    processing_ib = flag(31)


class DequeueRequest(Word):
    dequeue_req = bits(3, 0, "1: drain, 2: reset waves")
    iq_req_pend = flag(4)
    dequeue_int = flag(8)


class MqdControl(Word):
    vmid = bits(3, 0)
    priv_state = flag(8)


class EopControl(Word):
    eop_size = bits(5, 0, "log2 of the buffer's dwords, less one")


class AqlControl(Word):
    control0 = bits(14, 0, "1 for a queue of AQL packets")


class QueueError(Word):
    aql_error = flag(5)
    pq_utcl1_error = flag(8)
    ib_utcl1_error = flag(9)
    eop_utcl1_error = flag(10)


class Hqd(Block):
    """CP_MQD_* and CP_HQD_* of the chosen bank."""

    UNIT = 4
    CP_MQD_BASE_ADDR = at(0x1FA9, Address, "MC address of the descriptor")
    CP_HQD_ACTIVE = at(0x1FAB, Active, "written last")
    CP_HQD_VMID = at(0x1FAC, Vmid)
    CP_HQD_PERSISTENT_STATE = at(0x1FAD, PersistentState)
    CP_HQD_PIPE_PRIORITY = at(0x1FAE, Word)
    CP_HQD_QUEUE_PRIORITY = at(0x1FAF, Word)
    CP_HQD_QUANTUM = at(0x1FB0, Quantum)
    CP_HQD_PQ_BASE = at(0x1FB1, Page256, "the ring")
    CP_HQD_PQ_RPTR = at(0x1FB3, Word)
    CP_HQD_PQ_RPTR_REPORT_ADDR = at(0x1FB4, Address, "where the read pointer is written")
    CP_HQD_PQ_WPTR_POLL_ADDR = at(0x1FB6, Address, "where the write pointer can be read")
    CP_HQD_PQ_DOORBELL_CONTROL = at(0x1FB8, DoorbellControl)
    unknown_1FB9 = at(0x1FB9, Word, "no header names it; written 0 with the others")
    CP_HQD_PQ_CONTROL = at(0x1FBA, QueueControl)
    CP_HQD_IB_BASE_ADDR = at(0x1FBB, Address)
    CP_HQD_IB_RPTR = at(0x1FBD, Word)
    CP_HQD_IB_CONTROL = at(0x1FBE, IbControl)
    CP_HQD_IQ_TIMER = at(0x1FBF, Word)
    CP_HQD_IQ_RPTR = at(0x1FC0, Word)
    CP_HQD_DEQUEUE_REQUEST = at(0x1FC1, DequeueRequest)
    CP_HQD_DMA_OFFLOAD = at(0x1FC2, Word)
    CP_HQD_SEMA_CMD = at(0x1FC3, Word)
    CP_HQD_MSG_TYPE = at(0x1FC4, Word)
    CP_HQD_ATOMIC0_PREOP = at(0x1FC5, Address)
    CP_HQD_ATOMIC1_PREOP = at(0x1FC7, Address)
    CP_HQD_HQ_STATUS0 = at(0x1FC9, Word)
    CP_HQD_HQ_CONTROL0 = at(0x1FCA, Word)
    CP_MQD_CONTROL = at(0x1FCB, MqdControl)
    CP_HQD_HQ_STATUS1 = at(0x1FCC, Word)
    CP_HQD_HQ_CONTROL1 = at(0x1FCD, Word)
    CP_HQD_EOP_BASE_ADDR = at(0x1FCE, Page256, "without it no RELEASE_MEM works")
    CP_HQD_EOP_CONTROL = at(0x1FD0, EopControl)
    CP_HQD_EOP_RPTR = at(0x1FD1, Word)
    CP_HQD_EOP_WPTR = at(0x1FD2, Word)
    CP_HQD_EOP_EVENTS = at(0x1FD3, Word)
    CP_HQD_CTX_SAVE_BASE_ADDR = at(0x1FD4, Address)
    CP_HQD_CTX_SAVE_CONTROL = at(0x1FD6, Word)
    CP_HQD_CNTL_STACK_OFFSET = at(0x1FD7, Word)
    CP_HQD_CNTL_STACK_SIZE = at(0x1FD8, Word)
    CP_HQD_WG_STATE_OFFSET = at(0x1FD9, Word)
    CP_HQD_CTX_SAVE_SIZE = at(0x1FDA, Word)
    CP_HQD_GDS_RESOURCE_STATE = at(0x1FDB, Word)
    CP_HQD_ERROR = at(0x1FDC, QueueError)
    CP_HQD_EOP_WPTR_MEM = at(0x1FDD, Word)
    CP_HQD_AQL_CONTROL = at(0x1FDE, AqlControl)
    CP_HQD_PQ_WPTR = at(0x1FDF, Address, "LO, HI; in dwords, never wrapped")
