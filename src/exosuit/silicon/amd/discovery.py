"""The IP discovery binary: which blocks a card has, in which versions, where their registers lie.

It lies 64 KiB below the top of local memory, 10 KiB long, put there by the card's own firmware.
`read_discovery` is strict about what it relies on: signatures, checksums, and that every table
lies inside. A card that answers with garbage is refused here, before anything is written to it.

Sources: Linux `discovery.h`, `amdgpu_discovery.c`; a dump of a real card (mac-amdgpu's
`gfx1151_discovery.bin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from exosuit.datasheet import Struct, Word, array, bits, flag, u8, u16, u32, word
from exosuit.errors import UnsupportedCard

BYTES_BELOW_TOP = 0x10000
SIZE_BYTES = 0x2800
BINARY_SIGNATURE = 0x28211407
DISCOVERY_SIGNATURE = 0x53445049
"""`IPDS` in memory order."""
HARVEST_SIGNATURE = 0x56524148
"""`HARV` in memory order."""
GC_SIGNATURE = 0x4347
"""`GC` in memory order."""

Version = tuple[int, int, int]


class Table(IntEnum):
    """Index into the table list of the binary."""

    IP_DISCOVERY = 0
    GC = 1
    HARVEST_INFO = 2
    VCN_INFO = 3
    MALL_INFO = 4
    NPS_INFO = 5


class HardwareId(IntEnum):
    """Blocks by the id in the table."""

    MP1 = 1
    MP2 = 2
    THM = 3
    SMUIO = 4
    FUSE = 5
    CLKA = 6
    PWR = 10
    GC = 11
    VCN = 12
    MMHUB = 34
    ATHUB = 35
    OSSSYS = 40
    HDP = 41
    SDMA0 = 42
    SDMA1 = 43
    DF = 46
    SDMA2 = 68
    SDMA3 = 69
    LSDMA = 91
    NBIF = 108
    UMC = 150
    MP0 = 255
    DMU = 271


class TableInfo(Word):
    """One entry of the table list."""

    WIDTH = 64
    offset = bits(15, 0, "from the start of the binary")
    checksum = bits(31, 16, "16-bit sum of the table's bytes")
    size_bytes = bits(47, 32)


class BinaryHeader(Struct):
    SIZE = 60
    signature = u32()
    version_major = u16()
    version_minor = u16()
    binary_checksum = u16("16-bit sum of the bytes from offset 10 to `binary_size`")
    binary_size = u16()
    tables = array(word(TableInfo), 6)


class DieInfo(Word):
    die_id = bits(15, 0)
    die_offset = bits(31, 16, "from the start of the binary")


class DiscoveryFlags(Word):
    WIDTH = 8
    base_addr_64_bit = flag(0, "meaningful from version 4")


class DiscoveryHeader(Struct):
    SIZE = 80
    signature = u32()
    version = u16()
    size = u16()
    id = u32()
    num_dies = u16()
    dies = array(word(DieInfo), 16)
    flags = word(DiscoveryFlags)


class DieHeader(Struct):
    SIZE = 4
    die_id = u16()
    num_ips = u16()


class IpRevision(Word):
    WIDTH = 8
    sub_revision = bits(3, 0)
    variant = bits(7, 4)


class IpHeader(Struct):
    """One block; its bases follow, in dwords, 4 or 8 bytes each."""

    SIZE = 8
    hardware_id = u16()
    instance = u8()
    num_bases = u8()
    major = u8()
    minor = u8()
    revision = u8()
    sub_revision = word(IpRevision)


class GcInfo(Struct):
    """GC info table, version 1.0; later minor versions add fields at the end."""

    SIZE = 88
    signature = u32()
    version_major = u16()
    version_minor = u16()
    size = u32()
    num_se = u32(at=0x0C)
    num_wgp0_per_sa = u32()
    num_wgp1_per_sa = u32()
    num_rb_per_se = u32()
    num_gl2c = u32()
    num_gprs = u32()
    wave_size = u32(at=0x38)
    max_waves_per_simd = u32()
    max_scratch_slots_per_cu = u32()
    lds_size = u32("in KiB")
    num_sc_per_se = u32()
    num_sa_per_se = u32()


class HarvestEntry(Word):
    hardware_id = bits(15, 0, "0: no entry")
    instance = bits(23, 16)


HARVEST_HEADER_BYTES = 8
HARVEST_ENTRIES = 32


@dataclass(frozen=True, slots=True)
class Ip:
    """One block of a card.

    bases  where its registers lie, in dwords; a register names its base by position (segment)
    """

    hardware_id: int
    instance: int
    version: Version
    bases: tuple[int, ...]

    @property
    def byte_bases(self) -> tuple[int, ...]:
        """The bases as `Block` takes them."""
        return tuple(4 * base for base in self.bases)


@dataclass(frozen=True, slots=True)
class Shaders:
    """How much of everything there is, from the GC table, before harvest."""

    shader_engines: int
    arrays_per_engine: int
    wgps_per_array: int
    max_waves_per_simd: int
    max_scratch_slots_per_cu: int
    lds_bytes: int

    @property
    def compute_units(self) -> int:
        return 2 * self.wgps_per_array * self.arrays_per_engine * self.shader_engines


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a card says of itself. Harvested blocks are left out of `ips`."""

    ips: Mapping[tuple[int, int], Ip]
    shaders: Shaders

    def ip(self, hardware_id: int, instance: int = 0) -> Ip:
        """A block. Raises UnsupportedCard if the card has none."""
        found = self.ips.get((hardware_id, instance))
        if found is None:
            name = HardwareId(hardware_id).name if hardware_id in _NAMES else hex(hardware_id)
            raise _wrong(f"it lists no {name}")
        return found

    def version(self, hardware_id: int) -> Version:
        return self.ip(hardware_id).version


_NAMES = {int(member) for member in HardwareId}


def read_discovery(data: bytes) -> Discovery:
    """Take the binary apart. Raises UnsupportedCard for anything that contradicts itself.

    data  the bytes from `BYTES_BELOW_TOP` below the top of local memory, `SIZE_BYTES` of them
    """
    if len(data) < BinaryHeader.SIZE:
        raise _wrong(f"it is {len(data)} bytes long")
    binary = BinaryHeader(data)
    if binary.signature != BINARY_SIGNATURE:
        raise _wrong(f"it begins with {binary.signature:08x}, not {BINARY_SIGNATURE:08x}")
    size = binary.binary_size
    if not BinaryHeader.SIZE <= size <= len(data):
        raise _wrong(f"it claims {size} bytes")
    if sum(data[10:size]) & 0xFFFF != binary.binary_checksum:
        raise _wrong("its checksum is wrong")
    ips = _read_ips(data[:size])
    harvested = _read_harvest(data[:size])
    return Discovery(
        ips={place: ip for place, ip in ips.items() if place not in harvested},
        shaders=_read_shaders(data[:size]),
    )


def table_info(data: bytes, table: Table) -> TableInfo:
    """Entry of the table list."""
    return TableInfo.decode(data[12 + 8 * table : 20 + 8 * table])


def _place(data: bytes, table: Table, least: int) -> int:
    """Where a table that must be there begins, with at least `least` bytes after that."""
    offset = table_info(data, table).offset
    if offset < BinaryHeader.SIZE or offset + least > len(data):
        raise _wrong(f"its {table.name} table lies at {offset:#x}")
    return offset


def _check(data: bytes, table: Table, size: int) -> None:
    """Tables carry their own size, and the list a sum of so many bytes."""
    info = table_info(data, table)
    if info.offset + size > len(data):
        raise _wrong(f"its {table.name} table claims {size} bytes")
    if sum(data[info.offset : info.offset + size]) & 0xFFFF != info.checksum:
        raise _wrong(f"the checksum of its {table.name} table is wrong")


def _read_ips(data: bytes) -> dict[tuple[int, int], Ip]:
    header = DiscoveryHeader(data, _place(data, Table.IP_DISCOVERY, DiscoveryHeader.SIZE))
    if header.signature != DISCOVERY_SIGNATURE:
        raise _wrong(f"its list of blocks begins with {header.signature:08x}")
    _check(data, Table.IP_DISCOVERY, header.size)
    wide = header.version >= 4 and header.flags.base_addr_64_bit
    found: dict[tuple[int, int], Ip] = {}
    for index in range(min(header.num_dies, 16)):
        at = header.dies[index].die_offset
        if at + DieHeader.SIZE > len(data):
            raise _wrong(f"die {index} lies past its end")
        count = DieHeader(data, at).num_ips
        at += DieHeader.SIZE
        for _ in range(count):
            if at + IpHeader.SIZE > len(data):
                raise _wrong("its list of blocks runs past its end")
            ip = IpHeader(data, at)
            at += IpHeader.SIZE
            each = 8 if wide else 4
            end = at + each * ip.num_bases
            if end > len(data):
                raise _wrong("its list of blocks runs past its end")
            bases = tuple(
                int.from_bytes(data[first : first + each], "little")
                for first in range(at, end, each)
            )
            at = end
            place = ip.hardware_id, ip.instance
            found[place] = Ip(*place, (ip.major, ip.minor, ip.revision), bases)
    return found


def _read_harvest(data: bytes) -> set[tuple[int, int]]:
    info = table_info(data, Table.HARVEST_INFO)
    if info.offset == 0:
        return set()
    end = info.offset + HARVEST_HEADER_BYTES + 4 * HARVEST_ENTRIES
    if end > len(data):
        raise _wrong("its HARVEST_INFO table lies past its end")
    if int.from_bytes(data[info.offset : info.offset + 4], "little") != HARVEST_SIGNATURE:
        return set()
    first = info.offset + HARVEST_HEADER_BYTES
    entries = [HarvestEntry.decode(data[at : at + 4]) for at in range(first, end, 4)]
    return {(entry.hardware_id, entry.instance) for entry in entries if entry.hardware_id}


def _read_shaders(data: bytes) -> Shaders:
    info = GcInfo(data, _place(data, Table.GC, GcInfo.SIZE))
    _check(data, Table.GC, info.size)
    if info.version_major != 1:
        raise _wrong(f"its GC table is of version {info.version_major}, that of other cards")
    return Shaders(
        shader_engines=info.num_se,
        arrays_per_engine=info.num_sa_per_se,
        wgps_per_array=info.num_wgp0_per_sa + info.num_wgp1_per_sa,
        max_waves_per_simd=info.max_waves_per_simd,
        max_scratch_slots_per_cu=info.max_scratch_slots_per_cu,
        lds_bytes=info.lds_size * 1024,
    )


def _wrong(reason: str) -> UnsupportedCard:
    return UnsupportedCard(
        f"the card's discovery table cannot be used: {reason}",
        cause="the card has not started, its memory was lost, or it is of a generation that"
        " exosuit does not know",
        next="switch the enclosure off and on, then  exosuit doctor",
        reason=reason,
    )
