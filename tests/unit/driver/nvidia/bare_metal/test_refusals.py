"""What the bare boot refuses: other cards, chips that nobody could try, files and windows."""

from __future__ import annotations

import pytest
from tests.softcard.nvidia_cards import boot, make

from exosuit.errors import (
    BootFailed,
    CorruptFile,
    HelperMissing,
    LinkError,
    UnsupportedCard,
)
from exosuit.silicon.nvidia.chips import CHIPS as ALL_CHIPS
from exosuit.silicon.nvidia.chips import boot_42
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.nvidia.firmware import SyntheticFirmware

SPEC = "vram=1G,strict"


class Claiming(DirectLink):
    """A card whose configuration or registers say something else."""

    def __init__(self, card, config=None, registers=None) -> None:
        super().__init__(card)
        self._config, self._registers = config or {}, registers or {}

    def read_config(self, offset: int, size: int) -> int:
        found = super().read_config(offset, size)
        return self._config.get((offset, size), found)

    def bar(self, index: int):
        bar = super().bar(index)
        if index == 0:
            read32 = bar.read32
            bar.read32 = lambda offset: self._registers.get(offset, read32(offset))
        return bar


def test_an_amd_card():
    card = make(f"gb202,{SPEC}")
    with pytest.raises(UnsupportedCard, match="1002:744c"):
        boot(card, Claiming(card, {(0, 4): 0x744C_1002}))


def test_a_3d_controller_is_a_card():
    card = make(f"gb202,{SPEC}")
    boot(card, Claiming(card, {(8, 4): 0x0302_00A1})).close()
    with pytest.raises(UnsupportedCard, match="audio device"):
        boot(card, Claiming(card, {(8, 4): 0x0403_00A1}))


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (0x1640_00A1, "Turing"),  # TU104, RTX 2080
        (0x1380_00A1, "GTX"),  # GP108
        (0x1C20_0000, "newer"),
        *((int(boot_42(chip)), chip.name) for chip in ALL_CHIPS if chip.refused),
    ],
)
def test_chips_that_are_not_booted_are_refused_before_anything_is_written(identity, reason):
    card = make(f"ga102,{SPEC}")
    writes = card.meter.writes
    with pytest.raises(UnsupportedCard, match=reason) as caught:
        boot(card, Claiming(card, registers={0xA00: identity}))
    assert str(caught.value).count("\n") == 2
    assert card.meter.writes == writes
    assert not card.config.command.bus_master


@pytest.mark.parametrize("value", [0xBADF_5108, 0, 0xFFF0_0000])
def test_a_memory_size_that_is_none(value):
    card = make(f"ga102,{SPEC}")
    with pytest.raises(BootFailed, match="memory") as caught:
        boot(card, Claiming(card, registers={0x11_83A4: value}))
    assert caught.value.fields["step"] == "own start"


@pytest.mark.parametrize(("index", "name"), [(0, "registers"), (1, "memory")])
def test_a_window_that_is_too_small(index, name):
    class Small(DirectLink):
        def bar(self, wanted: int):
            bar = super().bar(wanted)
            if wanted == index:
                bar.size = 1 << 20
            return bar

    card = make(f"ga102,{SPEC}")
    with pytest.raises(BootFailed, match=name) as caught:
        boot(card, Small(card))
    assert caught.value.fields["bar"] == index


class Damaged(SyntheticFirmware):
    def __init__(self, role: str, change) -> None:
        self._role, self._change = role, change

    def read(self, path: str) -> bytes:
        data = super().read(path)
        return self._change(data) if self._role in path else data


@pytest.mark.parametrize(
    ("chip", "role"),
    [("ad102", "booter_load"), ("ad102", "bootloader"), ("ad102", "gsp-"), ("gb202", "fmc")],
)
def test_damaged_firmware_is_refused_before_the_card_is_touched(chip: str, role: str):
    card = make(f"{chip},{SPEC}")
    writes = card.meter.writes
    for change in (lambda data: data[:100], lambda data: b"", lambda data: b"\xff" * len(data)):
        with pytest.raises(CorruptFile, match=role.strip("-")) as caught:
            boot(card, firmware=Damaged(role, change))
        assert caught.value.fields["step"] == "files"
    assert card.meter.writes == writes
    boot(card).close()


def test_missing_firmware_says_what_to_type(tmp_path):
    from exosuit.advise.firmware import StoredFirmware

    card = make(f"gb202,{SPEC}")
    with pytest.raises(HelperMissing, match=r"gsp-570\.144\.bin") as caught:
        boot(card, firmware=StoredFirmware(tmp_path))
    assert caught.value.next == "exosuit setup --yes"


@pytest.mark.parametrize("what", ["image", "BIT", "PCI data"])
def test_a_vbios_that_does_not_parse(what: str):
    class Scratched(DirectLink):
        def bar(self, index: int):
            bar = super().bar(index)
            if index == 0:
                read = bar.read

                def scratched(offset: int, size: int) -> bytes:
                    data = bytearray(read(offset, size))
                    if offset == 0x30_0000:
                        pci = int.from_bytes(data[0x18:0x1A], "little")
                        at = {"image": 0, "BIT": data.find(b"BIT\0"), "PCI data": pci}[what]
                        data[at : at + 4] = b"\0\0\0\0"
                    return bytes(data)

                bar.read = scratched
            return bar

    card = make("ad102,vram=1G")
    with pytest.raises(CorruptFile, match=what) as caught:
        boot(card, Scratched(card))
    assert caught.value.fields["step"] == "vbios"
    assert not card.host.mappings
    boot(card).close()


def test_too_many_mappings_are_told():
    class Few(DirectLink):
        left = 6

        def allocate_dma(self, size: int, *, contiguous: bool = False):
            if self.left == 0:
                raise LinkError("all mappings are used", cause="a limit", next="start again")
            self.left -= 1
            return super().allocate_dma(size, contiguous=contiguous)

    card = make(f"ad102,{SPEC}")
    with pytest.raises(LinkError, match="mappings") as caught:
        boot(card, Few(card))
    assert caught.value.fields["step"] in ("host memory", "fwsec", "booter")
    assert not card.host.mappings
