"""The compute queues: what hardware demands before it listens, and what packets do."""

import pytest
from tests.softcard.bring_up import (
    COMPUTE_SLOT,
    IH_RING,
    RING_BYTES,
    SDMA_SLOT,
    VA,
    Hands,
)
from tests.unit.softcard.amd.packets import (
    AT,
    DATA,
    dispatch,
    release,
    wait,
    write,
)

from exosuit.silicon.amd import ih, pm4, sdma
from exosuit.softcard.card import Refused

# What has to be there before a queue listens.


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda h: h.nbio.RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN.write(0), "aperture"),
        (lambda h: h.nbio.S2A_DOORBELL_ENTRY_CTRL[3].write(0), "routing"),
        (lambda h: h.gfx.CP_MEC_DOORBELL_RANGE_UPPER.write(doorbell=4), "MEC hears"),
        (lambda h: h.gfx.CP_MEC_RS64_CNTL.write(mec_pipe0_active=True, mec_halt=True), "halted"),
        (lambda h: h.gfx.RLC_CNTL.write(0), "RLC is off"),
        (lambda h: h.gc_hub.VM_CONTEXT0_CNTL.write(0), "context 0 of the GC hub"),
        (lambda h: h.mm_hub.VM_CONTEXT0_PAGE_TABLE_BASE_ADDR.write(0), "no page table"),
    ],
)
def test_a_doorbell_is_not_heard(hands: Hands, break_it, words: str):
    break_it(hands)
    with pytest.raises(Refused, match=words):
        hands.compute(write(DATA, 5))
    assert hands.memory.read32(AT) == 0


@pytest.mark.parametrize(
    ("register", "value", "words"),
    [
        ("CP_HQD_EOP_BASE_ADDR", 0, "end-of-pipe|CP_HQD_EOP_BASE_ADDR"),
        ("CP_HQD_PQ_BASE", 0x1234, "CP_HQD_PQ_BASE of 0x1234 where"),
        ("CP_HQD_VMID", 3, "VMID"),
        ("CP_HQD_PQ_DOORBELL_CONTROL", 0, "doorbell"),
        ("CP_HQD_AQL_CONTROL", 1, "AQL"),
    ],
)
def test_a_queue_must_be_what_its_descriptor_says(
    hands: Hands, register: str, value: int, words: str
):
    hands.gfx.GRBM_GFX_CNTL.write(meid=1)
    hands.hqd.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=2)
    with pytest.raises(Refused, match=words):
        hands.start_compute(**{register: value})


def test_a_queue_before_the_mec_runs_is_refused():
    early = Hands.take()
    early.start_hub(early.mm_hub)
    early.start_psp()
    early.end_of_pipe = VA
    with pytest.raises(Refused, match="CP_HQD_ACTIVE while the RLC is off"):
        early.start_compute()


def test_a_slot_without_a_queue_and_a_pointer_beyond_the_ring(hands: Hands):
    with pytest.raises(Refused, match="no queue listens"):
        hands.doorbells.write64(8 * 7, 1)
    with pytest.raises(Refused, match="a ring further"):
        hands.doorbells.write64(8 * COMPUTE_SLOT, RING_BYTES)
    with pytest.raises(Refused, match="4 bytes"):
        hands.doorbells.write32(8 * COMPUTE_SLOT, 1)


def test_queue_registers_are_banked(hands: Hands):
    hands.gfx.GRBM_GFX_CNTL.write(meid=1, queueid=1)
    assert hands.hqd.CP_HQD_PQ_BASE.read() == 0
    hands.hqd.CP_HQD_PQ_BASE.write(address=0x77)
    hands.gfx.GRBM_GFX_CNTL.write(meid=1, queueid=0)
    assert hands.hqd.CP_HQD_PQ_BASE.read() == VA + RING_BYTES >> 8
    assert hands.hqd.CP_HQD_ACTIVE.read().active
    hands.gfx.GRBM_GFX_CNTL.write(meid=1, queueid=1)
    assert hands.hqd.CP_HQD_PQ_BASE.read() == 0x77
    for vmid in range(16):
        hands.gfx.GRBM_GFX_CNTL.write(vmid=vmid)
        hands.gfx.SH_MEM_BASES.write(private_base=vmid + 1, shared_base=1)
    hands.gfx.GRBM_GFX_CNTL.write(vmid=3)
    assert hands.gfx.SH_MEM_BASES.read().private_base == 4


def test_dequeuing_and_resetting(hands: Hands):
    hands.gfx.GRBM_GFX_CNTL.write(meid=1)
    hands.hqd.CP_HQD_DEQUEUE_REQUEST.write(0)
    assert hands.hqd.CP_HQD_ACTIVE.read().active  # zero asks for nothing
    hands.hqd.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=2)
    assert not hands.hqd.CP_HQD_ACTIVE.read().active
    hands.start_compute()
    hands.compute(write(DATA, 5))
    assert hands.memory.read32(AT) == 5
    hands.gfx.CP_MEC_RS64_CNTL.write(mec_pipe0_active=True, mec_pipe0_reset=True)
    hands.gfx.CP_MEC_RS64_CNTL.write(mec_pipe0_active=True)
    hands.gfx.GRBM_GFX_CNTL.write(meid=1)
    assert not hands.hqd.CP_HQD_ACTIVE.read().active
    hands.start_compute()
    hands.compute(write(DATA, 6))
    assert hands.memory.read32(AT) == 6


def test_memory_that_was_written_and_not_flushed_is_not_looked_at(hands: Hands):
    card = hands.card
    count = sdma.CopyCount(count=7)
    packet = bytes(sdma.CopyLinear.build(count=count, source=DATA, target=DATA + 8))
    hands.memory.write(hands.copy_ring, packet)
    with pytest.raises(Refused, match="a copy after writes through BAR 0 without an HDP flush"):
        hands.doorbells.write64(8 * SDMA_SLOT, len(packet))
    hands.memory.write32(AT, 1)
    with pytest.raises(Refused, match="an invalidation of translations after writes"):
        hands.gc_hub.VM_INVALIDATE_ENG_REQ[17].write(per_vmid_invalidate_req=1)
    hands.memory.write(hands.compute_ring, dispatch(VA))
    with pytest.raises(Refused, match="a dispatch after writes"):
        hands.doorbells.write64(8 * COMPUTE_SLOT, len(dispatch(VA)) // 4)
    assert card.nbio.unflushed is False  # each is said once


# What packets do.


def test_writes_copies_and_clocks(hands: Hands):
    hands.compute(
        pm4.Nop.build(bytes(12)),
        pm4.FILLER.to_bytes(4, "little"),
        write(DATA, 0x1234),
        pm4.CopyData.build(
            control=pm4.CopyControl(src_sel=pm4.CopySource.L2, dst_sel=pm4.CopyTarget.L2),
            source=DATA,
            target=DATA + 8,
        ),
        pm4.CopyData.build(
            control=pm4.CopyControl(
                src_sel=pm4.CopySource.IMMEDIATE, dst_sel=pm4.CopyTarget.L2, count_sel=True
            ),
            source=0x1122_3344_5566_7788,
            target=DATA + 16,
        ),
        pm4.CopyData.build(
            control=pm4.CopyControl(
                src_sel=pm4.CopySource.GPU_CLOCK, dst_sel=pm4.CopyTarget.L2, count_sel=True
            ),
            target=DATA + 24,
        ),
    )
    assert hands.memory.read32(AT + 8) == 0x1234
    assert hands.memory.read(AT + 16, 8) == 0x1122_3344_5566_7788.to_bytes(8, "little")
    assert int.from_bytes(hands.memory.read(AT + 24, 8), "little") > 0
    assert hands.memory.read32(hands.compute_read) == hands.compute_pointer


def test_releases(hands: Hands):
    hands.memory.write64(AT, (1 << 64) - 1)
    hands.compute(
        release(DATA, 5),
        release(DATA + 8, 1 << 40, data_sel=pm4.ReleaseDatum.VALUE_64),
        release(DATA + 16, 0, data_sel=pm4.ReleaseDatum.GPU_CLOCK),
        release(DATA + 24, 9, data_sel=pm4.ReleaseDatum.DISCARD),
        release(DATA + 32, 1, int_sel=pm4.ReleaseInterrupt.AFTER_CONFIRM),
    )
    assert hands.memory.read(AT, 8) == b"\x05\0\0\0\xff\xff\xff\xff"
    assert hands.memory.read(AT + 8, 8) == (1 << 40).to_bytes(8, "little")
    assert int.from_bytes(hands.memory.read(AT + 16, 8), "little") > 0
    assert hands.memory.read32(AT + 24) == 0
    entry = ih.Entry(hands.memory.read(IH_RING, 32))
    assert entry.header.source is ih.Source.CP_END_OF_PIPE


def test_a_wait_holds_the_queue_until_memory_says_so(hands: Hands):
    hands.compute(write(DATA, 1), wait(DATA + 64, 3), write(DATA, 2))
    assert hands.memory.read32(AT) == 1
    assert hands.card.waiting
    hands.memory.write32(AT + 64, 2)
    assert hands.memory.read32(AT) == 1
    hands.memory.write32(AT + 64, 4)
    assert hands.memory.read32(AT) == 2
    assert not hands.card.waiting


@pytest.mark.parametrize(
    ("function", "passing"),
    [
        (pm4.Compare.ALWAYS, {1, 2, 3}),
        (pm4.Compare.LESS, {1}),
        (pm4.Compare.LESS_EQUAL, {1, 2}),
        (pm4.Compare.EQUAL, {2}),
        (pm4.Compare.NOT_EQUAL, {1, 3}),
        (pm4.Compare.GREATER_EQUAL, {2, 3}),
        (pm4.Compare.GREATER, {3}),
    ],
)
def test_comparisons(hands: Hands, function: pm4.Compare, passing: set[int]):
    for value in (1, 2, 3):
        hands.memory.write32(AT + 64, value)
        hands.memory.write32(AT, 0)
        hands.compute(wait(DATA + 64, 2, function), write(DATA, 9))
        assert (hands.memory.read32(AT) == 9) is (value in passing)
        for unblock in (1, 2, 3):
            hands.memory.write32(AT + 64, unblock)
            hands.memory.read32(AT)


def test_the_hdp_flush_by_request_and_done(hands: Hands):
    before = hands.card.nbio.flushes
    hands.compute(
        pm4.WaitRegMem.build(
            control=pm4.WaitControl(
                function=pm4.Compare.GREATER_EQUAL,
                operation=pm4.WaitOperation.WRITE_THEN_WAIT,
            ),
            address=pm4.HDP_FLUSH_REQUEST | pm4.HDP_FLUSH_DONE << 32,
            reference=0xFFFF_FFFF,
            mask=0xFFFF_FFFF,
        ),
        write(DATA, 3),
    )
    assert hands.memory.read32(AT) == 3
    assert hands.card.nbio.flushes == before + 2  # the doorbell had one of its own


def test_indirect_buffers_are_read_anew_each_time(hands: Hands):
    inner = bytes(write(DATA, 1)) + bytes(write(DATA + 4, 2))
    hands.memory.write(AT + 0x1000, inner)
    call = pm4.IndirectBuffer.build(
        address=DATA + 0x1000,
        control=pm4.IndirectControl(size=len(inner) // 4, valid=True),
    )
    hands.compute(call, write(DATA + 8, 3))
    assert [hands.memory.read32(AT + at) for at in (0, 4, 8)] == [1, 2, 3]
    hands.memory.write(AT + 0x1000, bytes(write(DATA, 7)))
    hands.compute(call)
    assert hands.memory.read32(AT) == 7
    assert hands.memory.read32(hands.compute_read) == hands.compute_pointer


def test_a_wait_inside_an_indirect_buffer(hands: Hands):
    inner = bytes(wait(DATA + 64, 1)) + bytes(write(DATA, 1))
    hands.memory.write(AT + 0x1000, inner)
    control = pm4.IndirectControl(size=len(inner) // 4, valid=True)
    hands.compute(
        pm4.IndirectBuffer.build(address=DATA + 0x1000, control=control), write(DATA + 8, 3)
    )
    assert hands.memory.read32(AT + 8) == 0
    hands.memory.write32(AT + 64, 1)
    assert [hands.memory.read32(AT + at) for at in (0, 8)] == [1, 3]


def test_a_buffer_that_calls_itself_ends(hands: Hands):
    control = pm4.IndirectControl(size=4, valid=True)
    call = pm4.IndirectBuffer.build(address=DATA + 0x1000, control=control)
    hands.memory.write(AT + 0x1000, bytes(call))
    with pytest.raises(Refused, match="within"):
        hands.compute(call)


def test_the_ring_wraps_in_the_middle_of_a_packet(hands: Hands):
    filler = pm4.FILLER.to_bytes(4, "little")
    hands.compute(filler * (RING_BYTES // 4 - 2))
    hands.compute(write(DATA, 0x55))
    assert hands.memory.read32(AT) == 0x55
    assert hands.compute_pointer > RING_BYTES // 4
    hands.gfx.GRBM_GFX_CNTL.write(meid=1)
    assert hands.hqd.CP_HQD_PQ_RPTR.read() == hands.compute_pointer - RING_BYTES // 4


def test_unknown_packets_stop_the_queue():
    lax = Hands.take(strict=False)
    lax.boot()
    lax.compute((0xC000_9900).to_bytes(4, "little") + bytes(4), write(DATA, 5))
    assert lax.memory.read32(AT) == 0
    entry = ih.Entry(lax.memory.read(IH_RING, 32))
    assert (entry.header.client, entry.header.source) == (
        ih.Client.GRBM_CP,
        ih.Source.CP_BAD_OPCODE,
    )
    lax.compute(write(DATA, 6))
    assert lax.memory.read32(AT) == 0


def test_registers_that_are_none_are_refused(hands: Hands):
    with pytest.raises(Refused, match="SET_SH_REG of 0x100"):
        hands.compute(pm4.SetShReg.build(bytes(4), register=0x100))
