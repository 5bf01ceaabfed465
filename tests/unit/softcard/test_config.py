"""Configuration space answers as hardware does: masks, sizing, resizing, reset."""

from exosuit.silicon import pci
from exosuit.silicon.pci import Command
from exosuit.softcard.card import Options
from exosuit.softcard.config import EXPRESS_AT, REBAR_AT
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.generic import GenericCard
from exosuit.units import GiB, MiB


def link(**options: object) -> DirectLink:
    return DirectLink(GenericCard(Options(**{"vram": 1 * GiB, **options})))  # type: ignore[arg-type]


def test_the_capability_chain():
    read = link().read_config
    assert [c.id for c in pci.capabilities(read)] == [1, 5, 0x10]
    assert [c.id for c in pci.extended_capabilities(read)] == [1, 0x15]
    found = pci.read_link(read)
    assert found is not None
    assert found.title == "16 GT/s x16"
    assert pci.rebar_sizes(read, bar=2) == [256 * MiB, 512 * MiB, 1 * GiB]


def test_the_sizing_probe():
    card = link()
    low, high = card.read_config(0x18, 4), card.read_config(0x1C, 4)
    card.write_config(0x18, 0xFFFF_FFFF, 4)
    card.write_config(0x1C, 0xFFFF_FFFF, 4)
    mask = (card.read_config(0x1C, 4) << 32 | card.read_config(0x18, 4)) & ~0xF
    assert -mask & (1 << 64) - 1 == 256 * MiB
    card.write_config(0x18, low, 4)
    card.write_config(0x1C, high, 4)
    assert card.bar(2).address == 0x60_0000_0000
    assert pci.MemoryBar(low).kind is pci.BarType.BITS_64
    assert pci.MemoryBar(low).prefetchable


def test_resizing_by_the_control_register_and_by_request():
    card = link()
    card.write_config(REBAR_AT + 9, 9, 1)
    assert card.bar(2).size == 512 * MiB
    card.write_config(REBAR_AT + 9, 20, 1)  # 2^20 MiB is not offered: nothing happens
    assert card.bar(2).size == 512 * MiB
    assert card.resize_bar(2) == 1 * GiB
    assert card.resize_bar(0) == 64 << 10


def test_without_memory_decode_nobody_answers():
    card = link()
    card.write_config(4, 0, 2)
    assert card.bar(0).read32(0) == 0xFFFF_FFFF
    card.bar(0).write32(0x1000, 5)
    card.write_config(4, Command(memory_space=True), 2)
    assert card.bar(0).read32(0x1000) == 0


def test_an_unassigned_bar_does_not_answer():
    card = link()
    card.write_config(0x10, 0, 4)
    assert card.bar(0).read32(0) == 0xFFFF_FFFF


def test_a_function_reset_by_the_capability_clears_bus_mastering():
    card = link()
    card.write_config(4, Command(memory_space=True, bus_master=True), 2)
    card.write_config(EXPRESS_AT + 8, pci.DeviceControl(function_reset=True), 2)
    assert Command(card.read_config(4, 2)) == Command(memory_space=True)
    assert card.bar(0).read32(0) == 0x314F5845


def test_a_reset_that_nobody_repairs_leaves_the_card_without_addresses():
    card = link(restore_config=False)
    card.reset()
    assert card.read_config(4, 2) == 0
    assert card.read_config(0x10, 4) == 0
    card.write_config(4, Command(memory_space=True), 2)
    assert card.bar(0).read32(0) == 0xFFFF_FFFF


def test_reserved_and_read_only_bits_stay():
    card = link()
    for offset in range(0, 0x40, 4):
        if not 0x10 <= offset < 0x28 and offset not in (0x04, 0x0C, 0x3C):
            before = card.read_config(offset, 4)
            card.write_config(offset, ~before & 0xFFFF_FFFF, 4)
            assert card.read_config(offset, 4) == before
