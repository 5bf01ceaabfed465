"""The contract of `PciFunction`: every link passes it, against every kind of card.

`check_pci_function(make, subject)` opens links with `make` and runs each check on a fresh one.
What differs from card to card (which words are scratch, how its engine is made to copy) is in the
`Subject`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from exosuit.errors import LinkError
from exosuit.link.function import DmaMemory, PciFunction
from exosuit.silicon import generic, pci

Make = Callable[[], Any]
"""Gives a context manager that gives a fresh link."""


@dataclass(frozen=True)
class Subject:
    """One kind of card, as far as the contract must know it.

    scratch       (BAR, offset) of four words in a row that keep what is written
    mask          bits of them that do
    memory_bar    a BAR that is plain memory, or None
    copy          lets the card copy (link, source memory, target memory, size) by its own DMA
    has_doorbell  whether 64-bit writes have somewhere to go
    """

    vendor: int
    device: int
    bars: tuple[int, ...]
    scratch: tuple[int, int]
    copy: Callable[[PciFunction, DmaMemory, DmaMemory, int], None]
    memory_bar: int | None = None
    mask: int = 0xFFFF_FFFF
    words: int = 4


def check_pci_function(make: Make, subject: Subject) -> None:
    """Run the whole contract."""
    for check in CHECKS:
        with make() as link:
            check(link, subject)


def check_config(link: PciFunction, subject: Subject) -> None:
    assert link.read_config(0, 2) == subject.vendor
    assert link.read_config(2, 2) == subject.device
    assert link.read_config(0, 4) == subject.vendor | subject.device << 16
    assert link.read_config(1, 1) == subject.vendor >> 8
    assert pci.ClassCode(link.read_config(0x08, 4) >> 8) != 0
    assert list(pci.capabilities(link.read_config))
    command = pci.Command(link.read_config(0x04, 2))
    on = command.replace(memory_space=True, bus_master=True)
    link.write_config(0x04, on, 2)
    assert pci.Command(link.read_config(0x04, 2)) == on
    link.write_config(0, 0xDEAD, 2)  # read-only: dropped without complaint
    assert link.read_config(0, 2) == subject.vendor


def check_config_refusals(link: PciFunction, subject: Subject) -> None:
    for offset, size in ((1, 2), (2, 4), (0, 3), (-4, 4), (4096, 1), (4094, 4)):
        with pytest.raises(LinkError):
            link.read_config(offset, size)
        with pytest.raises(LinkError):
            link.write_config(offset, 0, size)


def check_bars(link: PciFunction, subject: Subject) -> None:
    for index in subject.bars:
        bar = link.bar(index)
        assert bar.index == index
        assert bar.size >= 4096
        assert bar.size & (bar.size - 1) == 0
        assert link.bar(index).size == bar.size


def check_registers(link: PciFunction, subject: Subject) -> None:
    index, offset = subject.scratch
    bar = link.bar(index)
    values = [(0x1234_5678 + 0x1111_1111 * n) & subject.mask for n in range(subject.words)]
    for at, value in enumerate(values):
        bar.write32(offset + 4 * at, value)
    assert [bar.read32(offset + 4 * at) for at in range(subject.words)] == values
    whole = b"".join(value.to_bytes(4, "little") for value in values)
    assert bar.read(offset, len(whole)) == whole
    into = bytearray(len(whole))
    bar.read_into(offset, memoryview(into))
    assert into == whole
    bar.write(offset, whole[::-1][:4])
    assert bar.read32(offset) == int.from_bytes(whole[::-1][:4], "little")
    if subject.words >= 2 and offset % 8 == 0:
        bar.write64(offset, 0x1122_3344_5566_7788)
        assert bar.read(offset, 8) == (0x1122_3344_5566_7788).to_bytes(8, "little")


def check_bar_refusals(link: PciFunction, subject: Subject) -> None:
    bar = link.bar(subject.scratch[0])
    before = link.counters.copy()
    for offset in (-4, bar.size, bar.size - 2):
        with pytest.raises(LinkError):
            bar.read32(offset)
        with pytest.raises(LinkError):
            bar.write32(offset, 0)
    with pytest.raises(LinkError):
        bar.read(bar.size - 16, 32)
    with pytest.raises(LinkError):
        bar.write(bar.size - 16, bytes(32))
    with pytest.raises(LinkError):
        bar.read32(2)
    with pytest.raises(LinkError):
        bar.write64(subject.scratch[1] + 4, 0)
    assert link.counters.since(before).bytes_read == 0
    assert link.counters.since(before).bytes_written == 0


def check_memory(link: PciFunction, subject: Subject) -> None:
    if subject.memory_bar is None:
        return
    bar = link.bar(subject.memory_bar)
    pattern = bytes(range(256)) * 1024
    bar.write(0x10000, pattern)
    assert bar.read(0x10000, len(pattern)) == pattern
    assert bar.read32(0x10000 + 4) == int.from_bytes(pattern[4:8], "little")
    bar.write64(0x10008, 1 << 63)
    assert bar.read(0x10008, 8) == (1 << 63).to_bytes(8, "little")
    bar.write(bar.size - 4096, pattern[:4096])
    assert bar.read(bar.size - 4096, 4096) == pattern[:4096]


def check_dma_memory(link: PciFunction, subject: Subject) -> None:
    for size, contiguous in ((4096, True), (100_000, False), (64 << 10, True)):
        memory = link.allocate_dma(size, contiguous=contiguous)
        assert memory.size == size
        assert sum(segment.size for segment in memory.segments) >= size
        assert all(segment.address % 4096 == 0 for segment in memory.segments)
        if contiguous:
            assert len(memory.segments) == 1
        assert memory.read(0, size & ~3) == bytes(size & ~3)
        memory.write(0, b"abcdefgh")
        memory.write32(8, 0xDEADBEEF)
        memory.write64(16, 1 << 60)
        assert memory.read(0, 8) == b"abcdefgh"
        assert memory.read32(8) == 0xDEADBEEF
        assert memory.read(16, 8) == (1 << 60).to_bytes(8, "little")
        assert memory.bus_address() == memory.segments[0].address
        assert memory.bus_address(4) == memory.segments[0].address + 4
        if memory.view is not None:
            assert bytes(memory.view[:8]) == b"abcdefgh"
        with pytest.raises(LinkError):
            memory.read(size - size % 4, 4096)
        memory.free()


def check_card_dma(link: PciFunction, subject: Subject) -> None:
    link.write_config(
        0x04,
        pci.Command(link.read_config(0x04, 2)).replace(memory_space=True, bus_master=True),
        2,
    )
    source = link.allocate_dma(4096, contiguous=True)
    target = link.allocate_dma(4096, contiguous=True)
    pattern = bytes((7 * n) & 0xFF for n in range(1024))
    source.write(0, pattern)
    subject.copy(link, source, target, len(pattern))
    assert target.read(0, len(pattern)) == pattern
    assert target.read(len(pattern), 64) == bytes(64)


def check_counters(link: PciFunction, subject: Subject) -> None:
    index, offset = subject.scratch
    bar = link.bar(index)
    before = link.counters.copy()
    for number in range(10):
        bar.write32(offset, number)
    bar.read32(offset)
    spent = link.counters.since(before)
    assert (spent.writes, spent.bytes_written) == (10, 40)
    assert (spent.reads, spent.bytes_read, spent.round_trips) == (1, 4, 1)


def check_reset(link: PciFunction, subject: Subject) -> None:
    link.reset()
    assert link.read_config(0, 2) == subject.vendor
    command = pci.Command(link.read_config(0x04, 2))
    link.write_config(0x04, command.replace(memory_space=True), 2)
    index, offset = subject.scratch
    bar = link.bar(index)
    bar.write32(offset, 0x55AA & subject.mask)
    assert bar.read32(offset) == 0x55AA & subject.mask


def check_close(link: PciFunction, subject: Subject) -> None:
    link.close()
    link.close()


CHECKS = (
    check_config,
    check_config_refusals,
    check_bars,
    check_registers,
    check_bar_refusals,
    check_memory,
    check_dma_memory,
    check_card_dma,
    check_counters,
    check_reset,
    check_close,
)


def generic_copy(link: PciFunction, source: DmaMemory, target: DmaMemory, size: int) -> None:
    """The generic card: host to card to host, then a fence."""
    ring = link.allocate_dma(4096, contiguous=True)
    host, card = generic.Aperture.HOST, generic.Aperture.CARD
    inward = generic.Copy.build(source=source.bus_address(), target=0x2000, count=size)
    inward.header = inward.header.replace(source=host, target=card)
    outward = generic.Copy.build(source=0x2000, target=target.bus_address(), count=size)
    outward.header = outward.header.replace(source=card, target=host)
    fence = generic.Fence.build(target=ring.bus_address(2048), value=1)
    fence.header = fence.header.replace(target=host)
    work = bytes(inward) + bytes(outward) + bytes(fence)
    ring.write(0, work)
    registers = generic.Registers(link.bar(generic.REGISTER_BAR))
    registers.CONTROL.write(reset=True)
    registers.RING_BASE.write(ring.bus_address())
    registers.RING_SIZE.write(2048)
    registers.CONTROL.write(enable=True)
    link.bar(generic.DOORBELL_BAR).write64(0, len(work))
    for _ in range(1000):
        if ring.read32(2048) == 1:
            break
        status = registers.STATUS.read()
        assert not status.halted, registers.ERROR.read()
    assert ring.read32(2048) == 1
    assert registers.READ_POINTER.read() == len(work)


GENERIC = Subject(
    vendor=generic.VENDOR_ID,
    device=generic.DEVICE_ID,
    bars=(generic.REGISTER_BAR, generic.MEMORY_BAR, generic.DOORBELL_BAR),
    scratch=(generic.REGISTER_BAR, 0x1000),
    memory_bar=generic.MEMORY_BAR,
    copy=generic_copy,
)
