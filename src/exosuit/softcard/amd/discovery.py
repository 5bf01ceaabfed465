"""The discovery binary of a software card, as its firmware would have left it in local memory."""

from __future__ import annotations

from exosuit.silicon.amd import discovery as table
from exosuit.silicon.amd.chips import BASES, Chip
from exosuit.silicon.amd.discovery import (
    BinaryHeader,
    DieHeader,
    DieInfo,
    DiscoveryHeader,
    GcInfo,
    HardwareId,
    IpHeader,
    Table,
    TableInfo,
)
from exosuit.softcard.amd.memory import LocalMemory


def write_discovery(chip: Chip, memory: LocalMemory) -> None:
    """Put the table where drivers look for it."""
    at = memory.size - table.BYTES_BELOW_TOP
    memory.view[at : at + table.SIZE_BYTES] = build_discovery(chip).ljust(table.SIZE_BYTES, b"\0")


def build_discovery(chip: Chip) -> bytes:
    """Blocks and shader counts of a chip, with every checksum."""
    blocks = _blocks(chip, BinaryHeader.SIZE)
    shaders = _shaders(chip)
    harvest = table.HARVEST_SIGNATURE.to_bytes(4, "little").ljust(
        table.HARVEST_HEADER_BYTES + 4 * table.HARVEST_ENTRIES, b"\0"
    )
    body = bytearray()
    header = BinaryHeader.make(
        signature=table.BINARY_SIGNATURE, version_major=1, binary_size=0, version_minor=0
    )
    tables = {Table.IP_DISCOVERY: blocks, Table.GC: shaders, Table.HARVEST_INFO: harvest}
    for index, content in tables.items():
        header.tables[index] = TableInfo(
            offset=BinaryHeader.SIZE + len(body),
            checksum=sum(content) & 0xFFFF,
            size_bytes=len(content),
        )
        body += content
    header.binary_size = BinaryHeader.SIZE + len(body)
    header.binary_checksum = sum(bytes(header)[10:] + body) & 0xFFFF
    return bytes(header) + bytes(body)


def _blocks(chip: Chip, at: int) -> bytes:
    entries = bytearray()
    for hardware_id, version in chip.versions.items():
        bases = BASES[HardwareId(hardware_id)]
        major, minor, revision = version
        entries += bytes(
            IpHeader.make(
                hardware_id=hardware_id,
                num_bases=len(bases),
                major=major,
                minor=minor,
                revision=revision,
            )
        )
        for base in bases:
            entries += base.to_bytes(4, "little")
    die = DieHeader.make(num_ips=len(chip.versions))
    header = DiscoveryHeader.make(
        signature=table.DISCOVERY_SIGNATURE,
        version=4,
        size=DiscoveryHeader.SIZE + DieHeader.SIZE + len(entries),
        num_dies=1,
    )
    header.dies[0] = DieInfo(die_offset=at + DiscoveryHeader.SIZE)
    return bytes(header) + bytes(die) + bytes(entries)


def _shaders(chip: Chip) -> bytes:
    return bytes(
        GcInfo.make(
            signature=table.GC_SIGNATURE,
            version_major=1,
            version_minor=0,
            size=GcInfo.SIZE,
            num_se=chip.engines,
            num_wgp0_per_sa=chip.wgps_per_array,
            num_wgp1_per_sa=0,
            num_rb_per_se=4,
            num_gl2c=16,
            num_gprs=1024,
            wave_size=32,
            max_waves_per_simd=16,
            max_scratch_slots_per_cu=32,
            lds_size=64,
            num_sc_per_se=1,
            num_sa_per_se=chip.arrays_per_engine,
        )
    )
