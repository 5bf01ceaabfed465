"""Dispatches of the compute queues: their order, the caches around them, their time."""

import pytest
from tests.softcard.bring_up import (
    IH_RING,
    RING_BYTES,
    VA,
    Hands,
)
from tests.unit.softcard.amd.packets import (
    AT,
    DATA,
    FLUSH,
    dispatch,
    release,
    set_sh,
    write,
)

from exosuit.silicon.amd import ih, pm4, sdma, smu
from exosuit.silicon.amd.chips import find_chip
from exosuit.silicon.amd.hqd import QueueError
from exosuit.softcard.amd.isa.shaders import Cost, ShaderFault
from exosuit.softcard.card import Refused
from exosuit.softcard.faults import FaultSchedule
from exosuit.softcard.timing import MODELS
from exosuit.units import MiB

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
