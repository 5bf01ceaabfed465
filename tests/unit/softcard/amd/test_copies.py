"""The copy queue: what it demands before it listens, and what its packets do."""

import pytest
from tests.softcard.bring_up import (
    IH_RING,
    RING_BYTES,
    SDMA_SLOT,
    Hands,
)
from tests.unit.softcard.amd.packets import (
    AT,
    DATA,
    wait,
    write,
)

from exosuit.silicon.amd import ih, pm4, sdma
from exosuit.softcard.card import Refused

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
