"""Hubs, page tables and the translation cache: what is found, what faults, what stays stale."""

import numpy as np
import pytest
from tests.softcard.bring_up import FREE, IH_RING, ROOT, VA, Hands

from exosuit.silicon import pci
from exosuit.silicon.amd import hub, ih, paging, sdma
from exosuit.softcard.amd.walker import EXECUTE, READ, WRITE
from exosuit.softcard.faults import FaultSchedule
from exosuit.units import GiB, MiB

PLACE = VA + 0x4000_0000
"""Not mapped by `bring_up`."""


@pytest.fixture(params=["gfx1100", "gfx1201"])
def hands(request: pytest.FixtureRequest) -> Hands:
    return ready(request.param)


def ready(target: str = "gfx1100", **options: object) -> Hands:
    made = Hands.take(target, strict=False, **options)
    made.boot()
    return made


def fetch(hands: Hands, address: int, size: int = 8) -> bytes:
    """What the copy engine reads at a virtual address."""
    hands.copy(
        sdma.CopyLinear.build(
            count=sdma.CopyCount(count=size - 1), source=address, target=VA + 0x100000
        )
    )
    return hands.memory.read(FREE + 0x100000, size)


def host_of(hands: Hands, physical: int) -> int:
    return hands.card.memory.host_base + physical


def test_pages_of_4_kib(hands: Hands):
    hands.memory.write(FREE + 0x400000, b"a page..")
    hands.map(PLACE, FREE + 0x400000, 0x2000)
    assert fetch(hands, PLACE) == b"a page.."
    entry = hands.card.tlb.miss(PLACE + 0x1000, READ)
    assert entry == host_of(hands, FREE + 0x401000) | READ | WRITE | EXECUTE
    assert hands.card.notes == []


def test_leaves_of_2_mib_and_1_gib():
    hands = ready(vram=2 * GiB, bar=2 * GiB)
    big = VA + 0x80_0000_0000
    table = hands.table(PLACE, level=2)
    at = table + 8 * paging.index(PLACE - VA, 2)
    hands.memory.write64(at, paging.leaf(hands.kind, 64 * MiB, 2, fragment=9))
    table = hands.table(big, level=1)
    hands.memory.write64(table, paging.leaf(hands.kind, 1 * GiB, 1))
    hands.memory.write(64 * MiB + 0x1F_FFF8, b"end of 2")
    hands.memory.write(1 * GiB + 0x3000_1000, b"in a big")
    hands.flush()
    assert fetch(hands, PLACE + 0x1F_FFF8) == b"end of 2"
    assert fetch(hands, big + 0x3000_1000) == b"in a big"
    entries = hands.card.tlb.entries
    first = (PLACE - VA) // paging.PAGE
    assert (np.diff(entries[first : first + 512]) == paging.PAGE).all()
    assert hands.card.notes == []


def test_without_the_mark_a_leaf_is_a_pointer(hands: Hands):
    """The commonest mistake: the memory itself is read as a table."""
    at = hands.table(PLACE, level=2) + 8 * paging.index(PLACE - VA, 2)
    leaf = paging.leaf(hands.kind, 64 * MiB, 2)
    hands.memory.write64(at, leaf.replace(leaf=False))
    hands.flush()
    fetch(hands, PLACE)
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read() != 0


def test_gfx12_wants_the_mark_on_last_leaves_too():
    hands = ready("gfx1201")
    hands.map(PLACE, FREE, 0x1000, leaf=False)
    fetch(hands, PLACE)
    assert "IS_PTE" in hands.card.notes[0]


def test_translations_stay_stale_until_they_are_invalidated(hands: Hands):
    hands.memory.write(FREE + 0x400000, b"old one.")
    hands.memory.write(FREE + 0x500000, b"new one.")
    hands.map(PLACE, FREE + 0x400000, 0x1000)
    assert fetch(hands, PLACE) == b"old one."
    hands.map(PLACE, FREE + 0x500000, 0x1000, flush=False)
    assert fetch(hands, PLACE) == b"old one."
    hands.mm_hub.VM_INVALIDATE_ENG_REQ[17].write(per_vmid_invalidate_req=1)
    assert fetch(hands, PLACE) == b"old one."  # the other hub's
    hands.gc_hub.VM_INVALIDATE_ENG_REQ[17].write(per_vmid_invalidate_req=2)
    assert fetch(hands, PLACE) == b"old one."  # another VMID's
    hands.flush()
    assert fetch(hands, PLACE) == b"new one."


def test_a_fault_is_reported_and_goes_to_the_dummy_page(hands: Hands):
    hands.memory.write(0xC0000, b"dummy...")
    assert fetch(hands, PLACE) == b"dummy..."
    status = hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read()
    assert status.cid is hub.Client.SDMA0
    assert not status.rw
    assert status.permission_faults & 1
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_ADDR.read() == PLACE >> 12
    entry = ih.Entry(hands.memory.read(IH_RING, 32))
    assert (entry.header.client, entry.header.source) == (ih.Client.GFX, ih.Source.PAGE_FAULT)
    assert entry.context0 | entry.context1 << 32 == PLACE >> 12
    assert hands.ih.IH_RB_WPTR.read() == 32
    assert fetch(hands, PLACE) == b"dummy..."
    hands.gc_hub.VM_L2_PROTECTION_FAULT_CNTL.write(clear_protection_fault_status_addr=True)
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read() == 0
    hands.copy(sdma.Fence.build(target=PLACE + 0x8000, value=1))
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read().rw


def test_the_first_fault_is_kept(hands: Hands):
    fetch(hands, PLACE)
    fetch(hands, PLACE + 0x9000)
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read().more_faults
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_ADDR.read() == PLACE >> 12


def test_permissions(hands: Hands):
    hands.map(PLACE, FREE + 0x400000, 0x1000, write=False, execute=False)
    assert fetch(hands, PLACE) == bytes(8)
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read() == 0
    hands.copy(sdma.Fence.build(target=PLACE, value=1))
    status = hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read()
    assert (status.permission_faults, status.rw) == (0b100, True)
    assert hands.memory.read32(FREE + 0x400000) == 0
    hands.gc_hub.VM_L2_PROTECTION_FAULT_CNTL.write(clear_protection_fault_status_addr=True)
    hands.card.tlb.miss(PLACE, EXECUTE)
    status = hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read()
    assert (status.permission_faults, status.cid) == (0b1000, hub.Client.SQC_INSTRUCTION)


def test_outside_the_context(hands: Hands):
    for address in (0x1000, VA - 8, 0x8000_0000_0000):
        fetch(hands, address)
        status = hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read()
        assert status.walker_error is hub.WalkerError.RANGE
        hands.gc_hub.VM_L2_PROTECTION_FAULT_CNTL.write(clear_protection_fault_status_addr=True)


def test_missing_directories_name_their_level(hands: Hands):
    fetch(hands, VA + (5 << 39))
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read().walker_error is hub.WalkerError.PDE2


def test_mc_addresses_go_past_the_tables(hands: Hands):
    hands.memory.write(FREE + 0x400000, b"direct..")
    assert fetch(hands, hands.mc_base + FREE + 0x400000) == b"direct.."


def test_a_fragment_covers_all_its_pages(hands: Hands):
    hands.map(PLACE, FREE + 0x400000, 0x10000, fragment=4)
    hands.card.tlb.miss(PLACE + 0x3000, READ)
    first = (PLACE - VA) // paging.PAGE
    assert hands.card.tlb.entries[first + 15] == host_of(hands, FREE + 0x40F000) | 7
    assert hands.card.notes == []


def test_a_fragment_that_lies_is_believed_and_noted(hands: Hands):
    hands.map(PLACE, FREE + 0x400000, 0x1000, fragment=1)
    hands.map(PLACE + 0x1000, FREE + 0x500000, 0x1000, fragment=1)
    hands.memory.write(FREE + 0x401000, b"neighbor")
    fetch(hands, PLACE)
    assert fetch(hands, PLACE + 0x1000) == b"neighbor"
    assert "fragment" in hands.card.notes[0]


def test_host_memory(hands: Hands):
    host = hands.link.allocate_dma(0x4000)
    host.write(0x2FF8, b"host....")
    for offset in range(0, 0x4000, 0x1000):
        hands.map(PLACE + offset, host.bus_address(offset), 0x1000, system=True)
    assert fetch(hands, PLACE + 0x2FF8) == b"host...."
    hands.copy(
        sdma.CopyLinear.build(
            count=sdma.CopyCount(count=0x3FFF), source=VA + 0x100000, target=PLACE
        )
    )
    assert host.read(0, 8) == b"host...."
    assert hands.card.notes == []
    host.free()
    fetch(hands, PLACE + 0x2000)  # cached once, but the host has taken it back
    assert "nothing is mapped" in hands.card.notes[0]
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read() != 0


def test_host_memory_wants_snooping_and_bus_mastering(hands: Hands):
    host = hands.link.allocate_dma(0x1000)
    hands.map(PLACE, host.bus_address(), 0x1000, system=True, snooped=False)
    fetch(hands, PLACE)
    assert "SNOOPED" in hands.card.notes[0]
    hands.link.write_config(4, pci.Command(memory_space=True), 2)
    hands.flush()
    fetch(hands, PLACE)
    assert "bus mastering" in hands.card.notes[1]


def test_a_table_outside_memory_or_in_the_host(hands: Hands):
    at = ROOT + 8 * 7
    address = VA + (7 << 39)
    hands.memory.write64(at, paging.pointer(hands.kind, 1 << 40))
    fetch(hands, address)
    assert "outside local memory" in hands.card.notes[0]
    hands.memory.write64(at, paging.pointer(hands.kind, 0x1000).replace(system=True))
    fetch(hands, address)
    assert "host memory" in hands.card.notes[1]


def test_the_semaphore_is_taken_once():
    hands = ready()
    semaphore = hands.mm_hub.VM_INVALIDATE_ENG_SEM[17]
    assert semaphore.read().semaphore
    assert not semaphore.read().semaphore
    semaphore.write(0)
    assert semaphore.read().semaphore


def test_an_address_beyond_what_the_cache_covers_is_walked_each_time(hands: Hands):
    far = VA + (100 << 30)
    hands.map(far, FREE + 0x400000, 0x2000)
    hands.memory.write(FREE + 0x400FFC, b"far away")
    assert fetch(hands, far + 0xFFC) == b"far away"


@pytest.mark.parametrize("kind", ["page", "dma"])
def test_scheduled_faults(kind: str):
    hands = ready(faults=FaultSchedule.parse(f"{kind}@10000"))
    host = hands.link.allocate_dma(0x1000)
    host.write(0, b"host....")
    hands.map(PLACE, host.bus_address(), 0x1000, system=True)
    assert fetch(hands, PLACE) == b"host...."
    for _ in range(10000):
        hands.bus.read32(0x378C)
    fetch(hands, PLACE)
    assert hands.gc_hub.VM_L2_PROTECTION_FAULT_STATUS.read() != 0


def test_the_interrupt_ring_overflows_with_a_word():
    hands = ready()
    hands.ih.IH_RB_CNTL.write(rb_enable=True, rb_size=5, mc_space=4)  # 128 bytes: 3 entries
    for number in range(5):
        fetch(hands, PLACE + 0x1000 * number)
    pointer = hands.ih.IH_RB_WPTR.read()
    assert pointer.rb_overflow
    assert hands.card.ih.reported == 3
    hands.ih.IH_RB_RPTR.write(96)
    control = hands.ih.IH_RB_CNTL.update(wptr_overflow_clear=True)
    assert not hands.ih.IH_RB_WPTR.read().rb_overflow
    hands.ih.IH_RB_CNTL.write(control.replace(wptr_overflow_clear=False))
    fetch(hands, PLACE + 0x9000)
    assert hands.card.ih.reported == 4
