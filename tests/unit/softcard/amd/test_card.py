"""The card from outside: what it is at power-on, what survives what."""

import pytest
from tests.contract.pci_function import Subject, check_pci_function
from tests.softcard.bring_up import FREE, VA, Hands

from exosuit.link.function import DmaMemory, PciFunction
from exosuit.silicon import pci
from exosuit.silicon.amd import chips, psp, sdma
from exosuit.silicon.amd.chips import CHIPS, describe, find_chip
from exosuit.silicon.amd.discovery import read_discovery
from exosuit.silicon.amd.smu import DebugMessage
from exosuit.softcard.amd.card import AmdCard
from exosuit.softcard.amd.discovery import build_discovery
from exosuit.softcard.card import Options, Refused
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.faults import FaultSchedule
from exosuit.units import GiB, MiB

SCRATCH = 4 * (0xA000 + 0x2040)
TARGETS = [chip.target for chip in CHIPS]


def make(target: str = "gfx1100", **options: object) -> AmdCard:
    chosen = {"vram": 256 * MiB, "strict": True, **options}
    return AmdCard(find_chip(target), Options(**chosen))  # type: ignore[arg-type]


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.target)
def test_the_discovery_table_says_what_the_chip_is(chip: chips.Chip):
    assert read_discovery(build_discovery(chip)) == describe(chip)
    assert chips.find_blocks(describe(chip)).target == chip.target


def test_power_on_state():
    card = make(vram=1 * GiB)
    link = DirectLink(card)
    assert link.read_config(0, 4) == 0x744C_1002
    assert pci.ClassCode(link.read_config(8, 4) >> 8).can_be_card
    assert not pci.Command(link.read_config(4, 2)).bus_master
    assert pci.rebar_sizes(link.read_config, bar=0) == [256 * MiB, 512 * MiB, 1 * GiB]
    assert [link.bar(index).size for index in (0, 2, 5)] == [256 * MiB, 2 * MiB, 512 << 10]
    registers = link.bar(5)
    assert registers.read32(4 * 0xDE3) == 1024
    assert registers.read32(4 * 0x16061) >> 31  # C2PMSG_33: its own firmware is ready
    assert registers.read32(4 * 0x16063) == 0x8000_0000  # C2PMSG_35: so is the boot loader
    assert registers.read32(4 * 0x16091) == 0  # C2PMSG_81: no secure OS
    assert registers.read32(4 * (0x1A000 + 0x8EC)) == 0x8000  # local memory is not at 0
    assert registers.read32(4 * (0x1A000 + 0x8ED)) == 0x803F


def test_memory_is_as_large_as_sold_and_costs_nothing():
    card = AmdCard(find_chip("gfx1100"))
    assert card.memory.size == 24 * GiB
    assert DirectLink(card).resize_bar(0) == 32 * GiB


def test_a_window_that_the_options_give_cannot_be_resized():
    link = DirectLink(make(vram=1 * GiB, bar=256 * MiB))
    assert link.resize_bar(0) == 256 * MiB
    assert pci.rebar_sizes(link.read_config, bar=0) == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_chip_boots_by_hand(target: str):
    card = make(target)
    hands = Hands(DirectLink(card))
    hands.boot()
    hands.copy(sdma.Fence.build(target=VA + 0x100000, value=len(target)))
    assert hands.memory.read32(FREE + 0x100000) == len(target)
    assert card.notes == []


def test_registers_that_nobody_described_are_refused():
    card = make()
    link = DirectLink(card)
    with pytest.raises(Refused, match="no register is declared"):
        link.bar(5).read32(0x7000)
    with pytest.raises(Refused, match="read-only"):
        link.bar(5).write32(4 * 0xDE3, 1)
    with pytest.raises(Refused, match="8 bytes"):
        link.bar(5).read(0x378C, 8)
    lax = make(strict=False)
    DirectLink(lax).bar(5).write32(0x7000, 5)
    assert DirectLink(lax).bar(5).read32(0x7000) == 5
    assert len(lax.notes) == 2


def test_state_survives_a_client():
    card = make()
    hands = Hands(DirectLink(card))
    hands.boot()
    hands.gfx.SCRATCH_REG[7].write(0x1234)
    card.host.clear()
    again = Hands(DirectLink(card))
    assert again.gfx.SCRATCH_REG[7].read() == 0x1234
    assert again.psp.C2PMSG_81.read() != 0
    assert again.gfx.RLC_RLCS_BOOTLOAD_STATUS.read() >> 31


def test_a_mode1_reset_loses_everything():
    card = make()
    hands = Hands(DirectLink(card))
    hands.boot()
    hands.gfx.SCRATCH_REG[7].write(0x1234)
    hands.memory.write(FREE + 0x200000, b"weights!")
    hands.memory.write(0x10000, bytes(64))
    hands.link.write_config(4, pci.Command(memory_space=True), 2)
    hands.smu.C2PMSG_75.write(DebugMessage.MODE1_RESET)
    assert hands.smu.C2PMSG_54.read() == 1
    assert hands.gfx.SCRATCH_REG[7].read() == 0
    assert hands.psp.C2PMSG_81.read() == 0
    assert hands.memory.read(FREE + 0x200000, 8) != b"weights!"
    assert hands.memory.read(0x10000, 64) != bytes(64)
    assert card.mode1_resets == 1
    Hands(DirectLink(card)).boot()  # the discovery table is back, and nothing else


def test_a_mode1_reset_with_bus_mastering_is_refused():
    hands = Hands(DirectLink(make()))
    hands.boot()
    with pytest.raises(Refused, match="bus mastering"):
        hands.smu.C2PMSG_75.write(DebugMessage.MODE1_RESET)


def test_a_silent_card_answers_neither_psp_nor_smu():
    card = make(strict=False)
    hands = Hands(DirectLink(card))
    hands.boot()
    card.silent = True
    assert hands.load(8) == -1
    hands.smu.C2PMSG_90.write(0)
    hands.smu.C2PMSG_66.write(1)
    assert hands.smu.C2PMSG_90.read() == 0
    hands.psp.C2PMSG_64.write(psp.ControlCommand.DESTROY_RINGS)
    assert not psp.ControlStatus(hands.psp.C2PMSG_64.read()).ready
    hands.link.reset()
    Hands(DirectLink(card)).boot()


def test_a_card_without_its_cable_gives_ones():
    card = make(faults=FaultSchedule.parse("unplug@30"))
    hands = Hands(DirectLink(make()))
    hands.link = DirectLink(card)
    bar = hands.link.bar(5)
    assert [bar.read32(4 * 0xDE3) for _ in range(60)][-1] == 0xFFFF_FFFF
    assert hands.link.read_config(0, 2) == 0xFFFF


def amd_copy(link: PciFunction, source: DmaMemory, target: DmaMemory, size: int) -> None:
    """By the copy engine of a card that was just booted: host to host, then a fence."""
    hands = Hands(link)
    hands.boot()
    inward, outward = VA + 0x1000_0000, VA + 0x1001_0000
    hands.map(inward, source.bus_address(), 4096, system=True)
    hands.map(outward, target.bus_address(), 4096, system=True)
    count = sdma.CopyCount(count=size - 1)
    hands.copy(
        sdma.CopyLinear.build(count=count, source=inward, target=outward),
        sdma.Fence.build(target=VA + 0x100000, value=1),
    )
    assert hands.memory.read32(FREE + 0x100000) == 1


SUBJECT = Subject(
    vendor=0x1002,
    device=0x744C,
    bars=(0, 2, 5),
    scratch=(5, SCRATCH),
    words=1,
    memory_bar=0,
    copy=amd_copy,
)


def test_the_contract_of_a_pci_function():
    check_pci_function(lambda: DirectLink(make()), SUBJECT)
