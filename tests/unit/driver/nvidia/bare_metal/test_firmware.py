"""Firmware files: taken apart as their headers say, refused where they are damaged."""

from __future__ import annotations

import contextlib
import hashlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exosuit.driver.nvidia.bare_metal.firmware import (
    load_booter,
    load_bootloader,
    load_fmc,
    load_gsp,
)
from exosuit.driver.nvidia.bare_metal.host_memory import Pinned, pages, place_image
from exosuit.driver.nvidia.bare_metal.layout import plan, wpr_meta
from exosuit.errors import BootFailed, CorruptFile
from exosuit.link.function import Segment
from exosuit.link.mapped import MappedMemory
from exosuit.silicon.nvidia.chips import BY_NAME
from exosuit.silicon.nvidia.gsp import WPR_MAGIC
from exosuit.softcard.nvidia.firmware import SyntheticFirmware
from exosuit.units import GiB, KiB, MiB

AD102, GB202 = BY_NAME["AD102"], BY_NAME["GB202"]
LOADERS = [(load_gsp, AD102), (load_bootloader, AD102), (load_booter, AD102), (load_fmc, GB202)]


def test_what_the_files_hold():
    source = SyntheticFirmware()
    gsp = load_gsp(source, AD102)
    assert b"ad10x" in gsp.signature
    assert b"gb20x" in load_gsp(source, GB202).signature
    booter = load_booter(source, AD102)
    assert booter.data_offset + booter.data_bytes <= len(booter.image)
    assert booter.signature_at - booter.data_offset == 0x10  # as in every release so far
    # s_patchBooterUcodeSignature: the last one is for fuses at 0, the one before for 1.
    for fuses, name in ((0, b"booter_load 1"), (1, b"booter_load 0")):
        image = booter.signed(fuses)
        assert name in image[booter.signature_at : booter.signature_at + 384]
        assert len(image) == len(booter.image)
    with pytest.raises(CorruptFile, match="fuse version 2"):
        booter.signed(2)
    # The real file for GA102: the place for fuses at 0 is empty.
    empty = replace(booter, signatures=(booter.signatures[0], bytes(384)))
    with pytest.raises(CorruptFile, match="fuse version 0"):
        empty.signed(0)
    fmc = load_fmc(source, GB202)
    assert fmc.hash == hashlib.sha384(fmc.image).digest()
    assert len(fmc.public_key) == 100
    assert load_bootloader(source, AD102).descriptor.manifest_offset == 0x3000


@settings(max_examples=120, deadline=None)
@given(which=st.integers(0, 3), seed=st.integers(0, 1 << 32))
def test_any_damage_ends_in_a_file_or_in_three_lines(which: int, seed: int):
    load, chip = LOADERS[which]
    chance = random.Random(seed)

    class Damaged(SyntheticFirmware):
        def read(self, path: str) -> bytes:
            data = bytearray(super().read(path))
            head = [*range(min(len(data), 0x200)), *range(len(data) - 0x400, len(data))]
            for _ in range(chance.randint(1, 8)):
                data[chance.choice(head)] = chance.choice((0, 0xFF, chance.randrange(256)))
            return bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])

    with contextlib.suppress(CorruptFile):  # and nothing else
        load(Damaged(), chip)


# Where it goes ----------------------------------------------------------------------------------


def test_wpr2_as_the_public_driver_lays_it_out():
    """kgspCalculateFbLayout_TU102 by hand, for a card of 24 GiB and an image of 0x283000 bytes."""
    image, bootloader, vram = 0x28_3000, 0x5000, 24 * GiB
    found = plan(AD102, vram, image, bootloader)
    assert found.wpr_end == vram - MiB
    assert found.frts == vram - 2 * MiB
    assert found.boot_binary == vram - 2 * MiB - 0x5000
    assert found.image == (found.boot_binary - image) // (64 * KiB) * (64 * KiB)
    assert found.heap == (found.image - 0x810_0000) // MiB * MiB
    assert found.heap + found.heap_bytes <= found.image
    assert found.wpr_start == found.heap - MiB
    assert found.non_wpr_heap == found.wpr_start - MiB
    assert found.free_end <= found.non_wpr_heap
    meta = wpr_meta(AD102, found)
    assert meta.magic == WPR_MAGIC
    assert meta.fb_size == vram
    assert wpr_meta(GB202, plan(GB202, vram, image, bootloader)).wpr_start == 0


def test_the_heap_is_as_large_as_hardware_proven_boots_have_it():
    """tinygrad's two constants, which are the public driver's rule at 24 and 32 GiB."""
    assert AD102.heap_bytes(24 * GiB) == 0x810_0000
    assert GB202.heap_bytes(32 * GiB) == 0x870_0000
    assert GB202.heap_bytes(96 * GiB) == 141 * MiB


@pytest.mark.parametrize("chip", [AD102, GB202])
def test_too_little_memory(chip):
    with pytest.raises(BootFailed, match="too little"):
        plan(chip, 256 * MiB, 64 * MiB, 0x5000)


class Link:
    """Host memory at scattered bus addresses: every other page, from the top down."""

    def __init__(self) -> None:
        self.bus: dict[int, memoryview] = {}
        self.next = 0x40_0000_0000

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> MappedMemory:
        count = -(-size // 4096)
        view = memoryview(bytearray(count * 4096))
        segments = []
        for index in range(count):
            self.next -= 2 * 4096
            segments.append(Segment(self.next, 4096))
            self.bus[self.next] = view[index * 4096 : (index + 1) * 4096]
        return MappedMemory(view[:size] if size % 4096 else view, segments)


@pytest.mark.parametrize("size", [1, 4096, 4097, 513 * 4096, 17 * MiB + 5])
def test_page_lists_lead_to_every_page_of_the_image(size: int):
    link = Link()
    image = random.Random(size).randbytes(size)
    address = place_image(Pinned(link), image)
    found = [address]
    for _ in range(3):
        entries = b"".join(bytes(link.bus[at]) for at in found)
        words = memoryview(entries).cast("Q")
        found = [at for at in words if at]
    assert b"".join(bytes(link.bus[at]) for at in found)[:size] == image


def test_pages_of_memory_in_pieces():
    memory = Link().allocate_dma(3 * 4096 + 8)
    assert pages(memory) == [segment.address for segment in memory.segments]
