"""Compute and copy queues: what hardware demands before it listens, and what packets do."""

import pytest
from tests.softcard.bring_up import (
    COMPUTE_SLOT,
    FREE,
    IH_RING,
    RING_BYTES,
    SDMA_SLOT,
    VA,
    Hands,
)

from exosuit.silicon.amd import ih, pm4, sdma, smu
from exosuit.silicon.amd.chips import BASES, find_chip
from exosuit.silicon.amd.compute import Compute, sh_index
from exosuit.silicon.amd.discovery import HardwareId
from exosuit.silicon.amd.hqd import QueueError
from exosuit.softcard.amd.isa.shaders import Cost, ShaderFault
from exosuit.softcard.card import Refused
from exosuit.softcard.faults import FaultSchedule
from exosuit.softcard.timing import MODELS
from exosuit.units import MiB

DATA = VA + 0x200000
AT = FREE + 0x200000
GC = BASES[HardwareId.GC][0]


@pytest.fixture
def hands() -> Hands:
    made = Hands.take()
    made.boot()
    return made


def set_sh(name: str, *values: int) -> bytes:
    register = sh_index(Compute.REGISTERS[name], GC)
    rest = b"".join(value.to_bytes(4, "little") for value in values)
    return bytes(pm4.SetShReg.build(rest, register=register))


def dispatch(entry: int, groups: int = 4, caches: pm4.CacheControl = pm4.ALL_CACHES) -> bytes:
    at = entry >> 8
    return (
        (bytes(pm4.AcquireMem.build(caches=caches)) if caches else b"")
        + set_sh("COMPUTE_PGM", at & 0xFFFF_FFFF, at >> 32)
        + set_sh("COMPUTE_NUM_THREAD_X", 64, 1, 1)
        + set_sh("COMPUTE_USER_DATA", 0x1000, 0x2000)
        + bytes(
            pm4.DispatchDirect.build(
                x=groups,
                y=1,
                z=1,
                initiator=pm4.DispatchInitiator(
                    compute_shader_en=True, force_start_at_000=True, cs_w32_en=True
                ),
            )
        )
    )


def write(address: int, value: int) -> pm4.WriteData:
    return pm4.WriteData.build(
        value.to_bytes(4, "little"),
        control=pm4.WriteControl(dst_sel=pm4.WriteTarget.MEMORY),
        address=address,
    )


def release(address: int, value: int, **destination: int) -> pm4.ReleaseMem:
    chosen = {"data_sel": pm4.ReleaseDatum.LOW_32, **destination}
    return pm4.ReleaseMem.build(
        control=pm4.RELEASE_ALL,
        destination=pm4.ReleaseDestination(**chosen),
        address=address,
        value=value,
    )


def wait(address: int, value: int, function: pm4.Compare = pm4.Compare.GREATER_EQUAL):
    return pm4.WaitRegMem.build(
        control=pm4.WaitControl(function=function, mem_space=True),
        address=address,
        reference=value,
        mask=0xFFFF_FFFF,
        interval=4,
    )


FLUSH = pm4.EventWrite.build(event=pm4.PARTIAL_FLUSH)


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


# Dispatches.


def test_a_dispatch_as_the_registers_say(hands: Hands):
    hands.compute(
        set_sh("COMPUTE_PGM_RSRC1", 0xE0AF0000, 0x98),
        set_sh("COMPUTE_PGM_RSRC3", 7),
        set_sh("COMPUTE_TMPRING_SIZE", 0x20200),
        set_sh("COMPUTE_DISPATCH_SCRATCH_BASE", 0x1234, 0x20),
        dispatch(VA + 0x300000, groups=5),
        release(DATA, 1),
    )
    (run,) = hands.programs.runs
    assert run.entry == VA + 0x300000
    assert (run.rsrc1, run.rsrc2, run.rsrc3) == (0xE0AF0000, 0x98, 7)
    assert run.user_data[:3] == (0x1000, 0x2000, 0)
    assert (run.threads, run.groups, run.start) == ((64, 1, 1), (5, 1, 1), (0, 0, 0))
    assert run.scratch_base == 0x20_0000_1234 << 8
    assert (run.tmpring, run.wave32) == (0x20200, True)
    assert hands.memory.read32(AT) == 1


def test_dispatches_without_a_barrier_between_them_run_in_another_order(hands: Hands):
    first, second, third = (VA + 0x300000 + 0x100 * n for n in range(3))
    hands.compute(dispatch(first), FLUSH, dispatch(second), dispatch(third), release(DATA, 1))
    assert [run.entry for run in hands.programs.runs] == [first, third, second]


def test_dispatches_that_nobody_waits_for_run_too(hands: Hands):
    hands.compute(dispatch(VA + 0x300000))
    assert len(hands.programs.runs) == 1


def test_a_program_that_faults_leaves_its_queue_hanging():
    lax = Hands.take(strict=False)
    lax.boot()
    lax.programs.fault = ShaderFault("illegal instruction", "0xdeadbeef", VA)
    lax.compute(dispatch(VA + 0x300000), FLUSH, release(DATA, 1))
    assert lax.memory.read32(AT) == 0
    entry = ih.Entry(lax.memory.read(IH_RING, 32))
    assert entry.header.source is ih.Source.SQ_MESSAGE
    assert ih.SqContext0(entry.context0).error is ih.SqError.ILLEGAL_INSTRUCTION
    assert ih.SqContext1(entry.context1).encoding is ih.SqEncoding.ERROR
    lax.programs.fault = None
    lax.gfx.GRBM_GFX_CNTL.write(meid=1)
    lax.hqd.CP_HQD_DEQUEUE_REQUEST.write(dequeue_req=2)
    lax.start_compute()
    lax.compute(dispatch(VA + 0x300000), release(DATA, 2))
    assert lax.memory.read32(AT) == 2


def test_a_descriptor_that_lets_no_unit_work(hands: Hands):
    hands.card.compute.queues[1, 0, 0].ring.units_enabled = False
    with pytest.raises(Refused, match="lets no compute unit work"):
        hands.compute(dispatch(VA + 0x300000))


def test_a_ring_that_is_not_mapped_stops_the_queue():
    lax = Hands.take(strict=False)
    lax.boot()
    table = lax.table(VA + RING_BYTES)
    lax.memory.write64(table + 8 * (RING_BYTES // 4096), 0)
    lax.flush()
    lax.compute(write(DATA, 5))
    assert lax.memory.read32(AT) == 0
    lax.gfx.GRBM_GFX_CNTL.write(meid=1)
    assert QueueError(lax.hqd.CP_HQD_ERROR.read()).pq_utcl1_error


def test_a_hang_ends_with_a_reset_of_the_mec():
    lax = Hands.take(strict=False, faults=FaultSchedule.parse("hang@3000"))
    lax.boot()
    for _ in range(3000):
        lax.bus.read32(0x378C)
    lax.compute(write(DATA, 5))
    assert lax.memory.read32(AT) == 0
    lax.gfx.GRBM_SOFT_RESET.write(soft_reset_cp=True, soft_reset_cpc=True)
    lax.gfx.GRBM_SOFT_RESET.write(0)
    lax.start_compute()
    lax.compute(write(DATA, 6))
    assert lax.memory.read32(AT) == 6


# Caches.


def test_what_caches_hold_must_be_forgotten(hands: Hands):
    nothing = pm4.CacheControl(0)
    with pytest.raises(Refused, match="ACQUIRE_MEM of the L2 since the host or SDMA"):
        hands.compute(dispatch(VA, caches=pm4.SHADER_CACHES))
    hands.compute(dispatch(VA), FLUSH, dispatch(VA, caches=pm4.SHADER_CACHES), FLUSH)
    with pytest.raises(Refused, match="shader caches since the last"):
        hands.compute(dispatch(VA), FLUSH, dispatch(VA, caches=nothing))


def test_what_programs_wrote_must_be_written_back(hands: Hands):
    copy = sdma.CopyLinear.build(count=sdma.CopyCount(count=7), source=DATA, target=DATA + 8)
    hands.compute(dispatch(VA), FLUSH)
    with pytest.raises(Refused, match="RELEASE_MEM that writes the L2 back"):
        hands.copy(copy)
    hands.compute(dispatch(VA), release(DATA, 1))
    hands.copy(copy)
    with pytest.raises(Refused, match="ACQUIRE_MEM of the L2"):
        hands.compute(dispatch(VA, caches=pm4.SHADER_CACHES))


# Copies.


def test_copies_of_any_alignment_and_fills(hands: Hands):
    pattern = bytes(range(256)) * 64
    hands.memory.write(AT, pattern)
    source, target, size = DATA + 0x123, DATA + 0x10_0FF1, 0x2F01
    hands.copy(
        sdma.CopyLinear.build(count=sdma.CopyCount(count=size - 1), source=source, target=target),
        sdma.ConstFill.build(
            target=DATA + 0x8000, value=0xAABB_CCDD, count=sdma.CopyCount(count=0x2001)
        ),
        sdma.WriteLinear.build(b"12345678", target=DATA + 0xC000, count=sdma.WriteCount(count=1)),
        sdma.TimestampGlobal.build(target=DATA + 0xD000),
        sdma.Fence.build(target=DATA + 0xE000, value=77),
    )
    copied = hands.memory.read(AT + 0x10_0FF0, size + 3 & ~3)[1:]
    assert copied[:size] == pattern[0x123 : 0x123 + size][: len(copied)]
    filled = (b"\xdd\xcc\xbb\xaa" * 0x801)[:0x2002]
    assert hands.memory.read(AT + 0x8000, 0x2004) == filled + bytes(2)
    assert hands.memory.read(AT + 0xA004, 2) == b"\0\0"
    assert hands.memory.read(AT + 0xC000, 8) == b"12345678"
    assert int.from_bytes(hands.memory.read(AT + 0xD000, 8), "little") > 0
    assert hands.memory.read32(AT + 0xE000) == 77
    assert hands.memory.read32(hands.copy_read) == hands.copy_pointer


def test_a_poll_is_woken_by_the_other_queue(hands: Hands):
    poll = sdma.PollRegMem.build(
        address=DATA, reference=1, mask=0xFFFF_FFFF, retry=sdma.PollRetry(retry_count=0xFFF)
    )
    poll.header = sdma.Header(
        sdma.PollHeader(op=sdma.Opcode.POLL_REGMEM, func=pm4.Compare.GREATER_EQUAL, mem_poll=True)
    )
    hands.copy(poll, sdma.Fence.build(target=DATA + 8, value=5))
    assert hands.memory.read32(AT + 8) == 0
    hands.compute(wait(DATA + 8, 5), write(DATA + 16, 6))
    assert hands.memory.read32(AT + 16) == 0
    hands.memory.write32(AT, 1)
    assert hands.memory.read32(AT + 16) == 6


def test_the_copy_ring_is_filled_up_with_zeros(hands: Hands):
    fence = bytes(sdma.Fence.build(target=DATA, value=1))
    hands.copy(fence * 3 + bytes(RING_BYTES - 48 - len(fence)))
    hands.copy(bytes(48))
    hands.copy(sdma.Fence.build(target=DATA, value=9))
    assert hands.memory.read32(AT) == 9
    assert hands.memory.read32(hands.copy_read) == hands.copy_pointer == RING_BYTES + 48


def test_traps_and_indirect_copies(hands: Hands):
    inner = bytes(sdma.Fence.build(target=DATA, value=3)) + bytes(16)
    hands.memory.write(AT + 0x1000, inner)
    hands.copy(
        sdma.Indirect.build(address=DATA + 0x1000, size=sdma.IndirectSize(size=8)),
        sdma.Trap.build(context=sdma.TrapContext(context=0x42)),
    )
    assert hands.memory.read32(AT) == 3
    entry = ih.Entry(hands.memory.read(IH_RING, 32))
    assert (entry.header.source, entry.context0) == (ih.Source.SDMA_TRAP, 0x42)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda h: h.sdma.SDMA0_F32_CNTL.write(halt=True), "halted"),
        (lambda h: h.nbio.S2A_DOORBELL_ENTRY_CTRL[2].write(0), "routing"),
        (lambda h: h.sdma.SDMA0_QUEUE0_RB_CNTL.write(0), "not enabled"),
        (lambda h: h.sdma.SDMA0_QUEUE0_DOORBELL.write(0), "no queue listens"),
        (
            lambda h: h.gfx.GRBM_SOFT_RESET.write(soft_reset_sdma0=True),
            "not enabled",
        ),
    ],
)
def test_the_copy_engine_does_not_hear(hands: Hands, break_it, words: str):
    break_it(hands)
    with pytest.raises(Refused, match=words):
        hands.copy(sdma.Fence.build(target=DATA, value=1))


def test_a_copy_pointer_that_goes_back_is_refused(hands: Hands):
    hands.copy(sdma.Fence.build(target=DATA, value=1))
    with pytest.raises(Refused, match="copy write pointer"):
        hands.doorbells.write64(8 * SDMA_SLOT, 4)


# Order.


def test_a_late_card_begins_with_what_was_asked_last():
    """Without a wait between the queues, the copy brings what was there before the write."""
    for waits in (False, True):
        hands = Hands.take()
        hands.boot()
        hands.card.late = True
        copy = sdma.CopyLinear.build(count=sdma.CopyCount(count=3), source=DATA, target=DATA + 8)
        poll = sdma.PollRegMem.build(
            address=DATA + 64,
            reference=1,
            mask=0xFFFF_FFFF,
            retry=sdma.PollRetry(retry_count=0xFFF),
        )
        poll.header = sdma.Header(
            sdma.PollHeader(op=sdma.Opcode.POLL_REGMEM, func=pm4.Compare.EQUAL, mem_poll=True)
        )
        hands.compute(write(DATA, 0x77), release(DATA + 64, 1))
        hands.copy(*[poll] if waits else [], copy)
        assert hands.card.waiting
        assert hands.memory.read32(AT + 8) == (0x77 if waits else 0)
        assert not hands.card.waiting


# Virtual time.


def test_the_time_of_work_is_that_of_the_real_part(hands: Hands):
    queue = hands.card.compute.queues[1, 0, 0]
    hands.programs.cost = Cost(0, 96_000_000, 1)  # a tenth of a millisecond at 960 GB/s
    hands.compute(release(DATA, 0))
    before = queue.timeline.now_ns
    hands.compute(dispatch(VA + 0x300000), release(DATA, 1, data_sel=pm4.ReleaseDatum.GPU_CLOCK))
    spent = queue.timeline.now_ns - before
    assert spent == pytest.approx(100_000, rel=0.05)
    ticks = int.from_bytes(hands.memory.read(AT, 8), "little")
    assert ticks * 10 == pytest.approx(queue.timeline.now_ns, rel=0.01)
    hands.programs.cost = Cost(1_413_120_000, 0, 1)  # 96 units of 64 lanes at 2.3 GHz
    before = queue.timeline.now_ns
    hands.compute(dispatch(VA + 0x300000), release(DATA, 1))
    assert queue.timeline.now_ns - before == pytest.approx(100_000, rel=0.05)


def test_low_clocks_make_programs_slow(hands: Hands):
    hands.programs.cost = Cost(1_413_120_000, 96_000_000, 1)
    spent: list[float] = []
    for limit in (None, smu.Clock.UCLK, smu.Clock.GFXCLK):
        if limit is not None:
            hands.smu.C2PMSG_90.write(0)
            lowest = find_chip("gfx1100").clock_levels_mhz[limit][0]
            hands.smu.C2PMSG_82.write(smu.ClockArgument(clock=limit, value=lowest))
            hands.smu.C2PMSG_66.write(smu.Message.SET_SOFT_MAX_BY_FREQ)
        hands.compute(dispatch(VA), release(DATA, 1))
        spent.append(hands.card.compute.queues[1, 0, 0].timeline.busy_ns)
    first, second, third = spent[0], spent[1] - spent[0], spent[2] - spent[1]
    assert second == pytest.approx(100_000 * 1249 / 96, rel=0.05)
    assert first == pytest.approx(100_000, rel=0.05)
    assert third == second  # memory is the slower of the two


def test_copies_from_the_host_run_at_the_speed_of_the_link():
    hands = Hands.take(link=MODELS["tb4"])
    hands.boot()
    host = hands.link.allocate_dma(4 * MiB, contiguous=True)
    for offset in range(0, 4 * MiB, 0x1000):
        hands.map(
            VA + 0x4000_0000 + offset,
            host.bus_address(offset),
            0x1000,
            system=True,
            flush=False,
        )
    hands.flush()
    before = hands.card.elapsed_ns
    for piece in range(4):
        hands.copy(
            sdma.CopyLinear.build(
                count=sdma.CopyCount(count=MiB - 1),
                source=VA + 0x4000_0000 + piece * MiB,
                target=DATA,
            )
        )
    speed = 4 * MiB / (hands.card.elapsed_ns - before) * 1e9
    assert 0.9 * MODELS["tb4"].bandwidth < speed <= MODELS["tb4"].bandwidth


def test_long_work_takes_turns_with_the_bus(hands: Hands):
    """Programs that take long do not keep the host from being served in between."""
    card = hands.card
    card._slice.seconds = 0  # every dispatch is too long
    hands.compute(dispatch(VA + 0x300000), dispatch(VA + 0x300100), release(DATA, 1))
    assert card.waiting
    card._slice.seconds = 1
    assert hands.memory.read32(AT) == 1
    assert not card.waiting
    assert len(hands.programs.runs) == 2
