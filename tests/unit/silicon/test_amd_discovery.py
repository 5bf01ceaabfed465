"""The discovery binary: what is read, and what is refused before anything is written to a card."""

import struct
from collections.abc import Sequence

import pytest

from exosuit.errors import UnsupportedCard
from exosuit.silicon.amd import chips, discovery, hub, ih, nbio, sdma_registers
from exosuit.silicon.amd.discovery import HardwareId

GC_11 = (HardwareId.GC, 0, (11, 0, 0), (0x1260, 0xA000, 0x1C000, 0x2402C00))
BLOCKS = [
    GC_11,
    (HardwareId.SDMA0, 0, (6, 0, 0), (0x1260, 0xA000)),
    (HardwareId.MMHUB, 0, (3, 0, 0), (0x1A000,)),
    (HardwareId.NBIF, 0, (4, 3, 0), (0, 0x14, 0xD20, 0x10400, 0x241B000, 0x4040000)),
    (HardwareId.HDP, 0, (6, 0, 0), (0xF20,)),
    (HardwareId.OSSSYS, 0, (6, 0, 0), (0x10A0,)),
    (HardwareId.MP0, 0, (13, 0, 0), (0x16000,)),
    (HardwareId.MP1, 0, (13, 0, 0), (0x16000,)),
]


def binary(
    blocks: Sequence[tuple[int, int, tuple[int, int, int], tuple[int, ...]]] = BLOCKS,
    *,
    wide: bool = False,
    harvest: Sequence[tuple[int, int]] = (),
    gc_major: int = 1,
) -> bytes:
    """A table made by hand from amd.md section 3, not by our own writer."""
    ips = b""
    for hardware_id, instance, version, bases in blocks:
        ips += struct.pack("<HBB4B", hardware_id, instance, len(bases), *version, 0)
        ips += struct.pack(f"<{len(bases)}{'Q' if wide else 'I'}", *bases)
    ip_at, die_at = 60, 140
    size = 80 + 4 + len(ips)
    head = struct.pack("<IHHIH", 0x53445049, 4, size, 0, 1) + struct.pack("<HH", 0, die_at)
    ip_table = head.ljust(0x4E, b"\0") + bytes([int(wide), 0])
    ip_table += struct.pack("<HH", 0, len(blocks)) + ips
    gc_at = ip_at + len(ip_table)
    counts = [6, 4, 0, 4, 16, 0, 0, 0, 0, 0, 0, 32, 16, 32, 64, 1, 2, 0]
    gc_table = struct.pack("<IHHI", 0x4347, gc_major, 0, 12 + 4 * len(counts))
    gc_table += struct.pack(f"<{len(counts)}I", *counts)
    harvest_at = gc_at + len(gc_table)
    entries = b"".join(struct.pack("<HBB", *entry, 0) for entry in harvest).ljust(128, b"\0")
    harvest_table = struct.pack("<IHH", 0x56524148, 0, 0) + entries
    tables = struct.pack("<4H", ip_at, sum(ip_table) & 0xFFFF, len(ip_table), 0)
    tables += struct.pack("<4H", gc_at, sum(gc_table) & 0xFFFF, len(gc_table), 0)
    tables += struct.pack("<4H", harvest_at, sum(harvest_table) & 0xFFFF, len(harvest_table), 0)
    body = tables.ljust(48, b"\0") + ip_table + gc_table + harvest_table
    rest = struct.pack("<H", 12 + len(body)) + body
    return struct.pack("<IHHH", 0x28211407, 1, 0, sum(rest) & 0xFFFF) + rest


def test_blocks_bases_and_shaders():
    found = discovery.read_discovery(binary().ljust(0x2800, b"\xaa"))
    assert found.version(HardwareId.GC) == (11, 0, 0)
    assert found.ip(HardwareId.GC).bases == GC_11[3]
    assert found.ip(HardwareId.GC).byte_bases[1] == 0x28000
    assert found.shaders.compute_units == 96
    assert found.shaders.lds_bytes == 64 << 10
    blocks = chips.find_blocks(found)
    assert (blocks.target, blocks.generation) == ("gfx1100", 11)
    assert blocks.mm_hub is hub.MmHub300
    assert blocks.nbio is nbio.Nbio
    assert blocks.ih is ih.Ih
    assert blocks.sdma is sdma_registers.Sdma6


def test_bases_of_64_bits_and_harvested_blocks():
    blocks = [*BLOCKS, (HardwareId.VCN, 1, (4, 0, 0), (0x1_0000_0000,))]
    found = discovery.read_discovery(binary(blocks, wide=True))
    assert found.ip(HardwareId.VCN, 1).bases == (0x1_0000_0000,)
    assert found.ip(HardwareId.MP0).bases == (0x16000,)
    found = discovery.read_discovery(binary(blocks, wide=True, harvest=[(HardwareId.VCN, 1)]))
    with pytest.raises(UnsupportedCard, match="lists no VCN"):
        found.ip(HardwareId.VCN, 1)


def test_a_target_is_not_the_version():
    for version, target in (((11, 0, 2), "gfx1102"), ((11, 0, 3), "gfx1101")):
        blocks = [(*GC_11[:2], version, GC_11[3]), *BLOCKS[1:]]
        assert chips.find_blocks(discovery.read_discovery(binary(blocks))).target == target


@pytest.mark.parametrize(
    ("which", "version"),
    [
        (HardwareId.GC, (10, 3, 0)),
        (HardwareId.GC, (11, 5, 0)),
        (HardwareId.MMHUB, (1, 8, 0)),
        (HardwareId.SDMA0, (5, 2, 0)),
        (HardwareId.OSSSYS, (4, 4, 2)),
        (HardwareId.NBIF, (7, 9, 0)),
        (HardwareId.MP0, (13, 0, 6)),
    ],
)
def test_unknown_generations_are_refused(which: HardwareId, version: tuple[int, int, int]):
    blocks = [b if b[0] is not which else (which, 0, version, b[3]) for b in BLOCKS]
    found = discovery.read_discovery(binary(blocks))
    with pytest.raises(UnsupportedCard) as refused:
        chips.find_blocks(found)
    assert refused.value.fields["version"] == ".".join(map(str, version))


def test_every_cut_and_every_changed_byte_is_refused_or_harmless():
    good = binary()
    for length in range(len(good)):
        with pytest.raises(UnsupportedCard):
            discovery.read_discovery(good[:length])
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 0x5A
        try:
            discovery.read_discovery(bytes(changed))
        except UnsupportedCard:
            continue
        assert at in range(4, 8), hex(at)  # versions of the header are not looked at


@pytest.mark.parametrize("garbage", [b"", bytes(0x2800), b"\xff" * 0x2800])
def test_garbage_is_refused(garbage: bytes):
    with pytest.raises(UnsupportedCard, match="discovery table"):
        discovery.read_discovery(garbage)


def test_another_kind_of_gc_table_is_refused():
    with pytest.raises(UnsupportedCard, match="GC table is of version 2"):
        discovery.read_discovery(binary(gc_major=2))


def test_chips_have_the_counts_that_are_sold():
    assert {chip.name: chip.compute_units for chip in chips.CHIPS} == {
        "Radeon RX 7900 XTX": 96,
        "Radeon RX 7600": 32,
        "Radeon RX 7800 XT": 60,
        "Radeon RX 9070 XT": 64,
    }
    for chip in chips.CHIPS:
        assert chips.TARGETS[chip.versions[HardwareId.GC]] == chip.target
