"""The card's PCIe end: windows, the HDP flush, the routing of doorbells."""

import pytest
from tests.softcard.bring_up import Hands

from exosuit.silicon.amd.chips import find_chip
from exosuit.softcard.amd.card import AmdCard
from exosuit.softcard.amd.nbio import CP_ENTRIES, SDMA_ENTRY
from exosuit.softcard.card import Options, Refused
from exosuit.softcard.direct import DirectLink
from exosuit.units import MiB


def make(target: str = "gfx1100") -> tuple[AmdCard, Hands]:
    card = AmdCard(find_chip(target), Options(vram=512 * MiB, bar=256 * MiB, strict=True))
    return card, Hands(DirectLink(card))


def test_memory_through_the_window():
    card, hands = make()
    card.memory.view[400 * MiB : 400 * MiB + 4] = b"\x78\x56\x34\x12"
    nbio = hands.nbio
    nbio.BIF_BX0_MM_INDEX_HI.write(0)
    nbio.BIF_BX0_MM_INDEX.write(address=400 * MiB, enable=True)
    assert nbio.BIF_BX0_MM_DATA.read() == 0x1234_5678
    nbio.BIF_BX0_MM_DATA.write(5)
    assert card.memory.read32(400 * MiB) == 5
    nbio.BIF_BX0_MM_INDEX_HI.write(1)  # 2 GiB further, where there is nothing
    assert nbio.BIF_BX0_MM_DATA.read() == 0xFFFF_FFFF
    nbio.BIF_BX0_MM_INDEX.write(address=0)
    with pytest.raises(Refused, match="bit 31"):
        nbio.BIF_BX0_MM_DATA.read()


def test_registers_beyond_bar_5_through_either_window():
    card, hands = make()
    far = 4 * (0x10400 + 0x4F7640)
    hands.nbio.BIF_BX0_PCIE_INDEX2.write(far)
    hands.nbio.BIF_BX0_PCIE_DATA2.write(0x3000_0007)
    hands.nbio.BIF_BX_PF0_RSMU_INDEX.write(far)
    assert hands.nbio.BIF_BX_PF0_RSMU_DATA.read() == 0x3000_0007
    assert card.registers.get("S2A_DOORBELL_ENTRY_CTRL", 0) == 0x3000_0007
    assert hands.nbio.S2A_DOORBELL_ENTRY_CTRL[0].read().awid == 3


def test_the_flush_register_is_where_the_card_says():
    card, hands = make()
    assert hands.nbio.BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL.read() == 0x7F000
    hands.bus.write32(0x7F000, 0)
    assert card.nbio.flushes == 1
    hands.nbio.BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL.write(0x7F100)
    hands.bus.write32(0x7F100, 0)
    assert card.nbio.flushes == 2
    with pytest.raises(Refused, match="no register"):
        hands.bus.write32(0x7F000, 0)


@pytest.mark.parametrize("target", ["gfx1100", "gfx1201"])
def test_doorbells_go_where_they_are_routed(target: str):
    card, hands = make(target)
    hears = card.nbio.hears
    hands.nbio.S2A_DOORBELL_ENTRY_CTRL[2].write(enable=True, range_offset=0x200, range_size=4)
    assert not hears(0x100, (SDMA_ENTRY,))
    hands.nbio.RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN.write(bif_doorbell_aper_en=True)
    assert [hears(slot, (SDMA_ENTRY,)) for slot in (0xFF, 0x100, 0x101, 0x102)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert not hears(3, CP_ENTRIES)
    hands.nbio.S2A_DOORBELL_ENTRY_CTRL[3].write(enable=True)
    assert hears(3, CP_ENTRIES)


def test_a_doorbell_reads_as_nothing():
    _, hands = make()
    assert hands.doorbells.read(0, 8) == bytes(8)
