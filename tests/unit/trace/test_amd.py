"""Tapes of AMD cards are shown by name."""

from pathlib import Path

from tests.softcard.bring_up import FREE, VA, Hands

from exosuit.silicon.amd import pm4, sdma
from exosuit.silicon.amd.chips import CHIPS, find_chip
from exosuit.softcard.amd.card import AmdCard
from exosuit.softcard.card import Options
from exosuit.softcard.direct import DirectLink
from exosuit.trace.chips import UnknownChip, chip_map
from exosuit.trace.decode import Decoder
from exosuit.trace.recorder import Recorder
from exosuit.trace.tape import Tape
from exosuit.units import MiB


def shown(path: Path, target: str) -> list[str]:
    card = AmdCard(find_chip(target), Options(vram=512 * MiB, bar=256 * MiB))
    with Recorder(DirectLink(card), path) as link:
        hands = Hands(link)
        hands.boot()
        hands.copy(sdma.Fence.build(target=VA + 0x100000, value=1))
        hands.compute(
            pm4.AcquireMem.build(caches=pm4.ALL_CACHES),
            pm4.EventWrite.build(event=pm4.PARTIAL_FLUSH),
        )
        hands.smu.C2PMSG_66.write(1)
        hands.bus.write32(0x7F000, 0)
        assert hands.memory.read32(FREE + 0x100000) == 1
    return [line.text for line in Decoder(Tape.load(path)).lines()]


def test_a_boot_in_words(tmp_path: Path):
    lines = shown(tmp_path / "t", "gfx1100")
    text = "\n".join(lines)
    for words in (
        "RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE = 00000200",
        "BIF_BX0_MM_DATA -> memory+1fff0000 = 28211407",
        "MP0_C2PMSG_35 = 00080000",
        "PSP LOAD_IP_FW  RLC_G, 0x1000 bytes  status=0xdead",
        "PSP SETUP_TMR  0x1500000 bytes",
        "GRBM_GFX_CNTL = 00000004  meid=1",
        "CP_HQD_ACTIVE = 00000001  active=1",
        "MMVM_CONTEXT0_CNTL = ",
        "GCVM_INVALIDATE_ENG_REQ[17] = 00000001",
        "BIF_BX_PF0_RSMU_DATA -> S2A_DOORBELL_ENTRY_CTRL[3] = 3000000d  enable=1 awid=6",
        "doorbell 0x100 (SDMA0), write pointer 0x10 bytes",
        "MP1_C2PMSG_66 = 00000001  message=TEST_MESSAGE",
        "HDP flush",
        "SDMA  Fence",
        "PM4  AcquireMem · EventWrite",
    ):
        assert words in text, words
    unnamed = [line for line in lines if "BAR5+" in line and "=" not in line and "HDP" not in line]
    assert unnamed == []


def test_generations_have_their_own_places(tmp_path: Path):
    text = "\n".join(shown(tmp_path / "t", "gfx1201"))
    assert "S2A_DOORBELL_ENTRY_CTRL[2] = 3009001d" in text
    assert "SDMA0_MCU_CNTL" in text
    assert "RSMU" not in text


def test_which_map_a_device_gets():
    for chip in CHIPS:
        assert type(chip_map(0x1002, chip.device_id)).__name__ == "AmdChip"
    assert type(chip_map(0x1002, 0x7448)).__name__ == "AmdChip"  # of the same family
    assert isinstance(chip_map(0x1002, 0x1111), UnknownChip)
    assert isinstance(chip_map(0x10DE, 0x1B80), UnknownChip)
