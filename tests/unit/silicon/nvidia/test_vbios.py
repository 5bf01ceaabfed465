"""FWSEC is found in VBIOS images of each shape; damaged ones are refused in three lines."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.silicon.nvidia import made_vbios

from exosuit.errors import CorruptFile
from exosuit.silicon.nvidia.vbios import choose_signature, find_mapper, read_fwsec


@pytest.mark.parametrize(
    "rom", [made_vbios.rom(), made_vbios.rom(0x400), made_vbios.rom(npde=True)],
    ids=["plain", "behind an IFR header", "lengths in NPDE"],
)  # fmt: skip
def test_fwsec_is_found(rom):
    found = read_fwsec(rom)
    assert found.descriptor.imem_load_size == made_vbios.CODE
    assert found.descriptor.dmem_load_size == made_vbios.DATA
    assert found.descriptor.ucode_id == 9
    assert found.descriptor.engine_id_mask == 0x400
    assert found.image[:256] == bytes(range(256))
    assert list(found.signatures) == made_vbios.SIGNATURES
    assert find_mapper(found) == made_vbios.MAPPER_AT


def test_the_signature_is_that_of_the_cards_fuses():
    found = read_fwsec(made_vbios.rom())
    assert choose_signature(found, 1) == made_vbios.SIGNATURES[0]
    assert choose_signature(found, 2) == made_vbios.SIGNATURES[1]
    for other in (0, 3):
        with pytest.raises(CorruptFile, match=f"fuse version {other}"):
            choose_signature(found, other)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\0\0", "no image at 0x0"),
        (0x20, b"XXXX", "no PCI data"),
        (0x30, b"\0\0", "has no size"),
        (made_vbios.BIT_AT, b"\0", "no BIT table"),
        (made_vbios.BIT_AT + 6, b"\x55", "checksum"),
        (made_vbios.BIT_AT + 20, b"\x71", "no falcon data"),
        (made_vbios.BASE_BYTES + made_vbios.EFI_BYTES + 0x10C, b"\x45", "no FWSEC"),
        (made_vbios.BASE_BYTES + made_vbios.EFI_BYTES + 0x201, b"\x02", "version 2"),
    ],
)
def test_damage_is_named(at, value, reason):
    rom = bytearray(made_vbios.rom())
    rom[at : at + len(value)] = value
    with pytest.raises(CorruptFile, match=reason) as caught:
        read_fwsec(bytes(rom))
    assert str(caught.value).count("\n") == 2


@pytest.mark.parametrize("rom", [b"", bytes(1 << 20), b"\xff" * (1 << 20)])
def test_what_is_no_vbios(rom):
    with pytest.raises(CorruptFile):
        read_fwsec(rom)


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 1 << 32), changes=st.integers(1, 12))
def test_any_damage_ends_in_an_answer_or_in_three_lines(seed, changes):
    chance = random.Random(seed)
    rom = bytearray(made_vbios.rom(chance.choice((0, 0x400)), npde=chance.random() < 0.5)[:0x6000])
    places = [*range(0x40), *range(made_vbios.BIT_AT, made_vbios.BIT_AT + 32), *range(0x300, 0x304)]
    start = made_vbios.BASE_BYTES + made_vbios.EFI_BYTES
    places += range(start, start + 0x240)
    for _ in range(changes):
        rom[chance.choice(places)] = chance.choice((0, 0xFF, 0x80, chance.randrange(256)))
    with contextlib.suppress(CorruptFile):  # and nothing else
        find_mapper(read_fwsec(bytes(rom)))
