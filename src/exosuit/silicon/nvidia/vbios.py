"""The VBIOS as a card shows it at BAR0 0x300000, and where FWSEC lies in it.

A VBIOS is a row of PCI expansion-ROM images. The first of code type 0x00 is the base, with the BIT
table, whose tokens point to what the rest of the firmware needs; falcon data lies in the first
image of code type 0xE0, and its pointers count from that image less the base image's size. Some
boards put an IFR header before the first image. Nothing in a VBIOS is believed.

Sources: open-gpu-kernel-modules 570.144 `kernel_gsp_fwsec.c`, `kernel_gsp_vbios_tu102.c`, `pci_exp_
table.h`; nouveau `bios/bit.c`; offsets checked against tinygrad's generated structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from exosuit.datasheet import Struct, Word, bits, embed, u8, u16, u32, u64, word
from exosuit.errors import CorruptFile
from exosuit.units import round_up

S = TypeVar("S", bound=Struct)

ROM_SIGNATURES = (0xAA55, 0x4E56, 0xBB77)
"""What an image begins with: every board's, and NVIDIA's own two."""
PCI_SIGNATURES = (0x52494350, 0x5344504E, 0x53494752)
"""PCIR, NPDS and RGIS, little-endian, at the start of a PCI data structure."""
BLOCK_BYTES = 512
IFR_SIGNATURE = 0x4947564E
"""NVGI: the board's start-up register writes come first."""
BIT_ID, BIT_SIGNATURE = 0xB8FF, 0x0054_4942
SIGNATURE_BYTES = 384
"""One RSA-3072 signature of FWSEC."""
FALCON_DATA = 0x70
"""BIT token that points to the table of falcon programs."""


class CodeType(IntEnum):
    """Kind of an expansion-ROM image."""

    BASE = 0x00
    EFI = 0x03
    EXTENSION = 0xE0


class RomHeader(Struct):
    """The start of every image."""

    SIZE = 0x1A
    signature = u16()
    pci_data = u16("offset of the PCI data structure", at=0x18)


class PciData(Struct):
    """The PCI data structure."""

    SIZE = 0x18
    signature = u32()
    vendor_id = u16()
    device_id = u16()
    length = u16(at=0x0A)
    revision = u8()
    class_code_0 = u8()
    class_code_1 = u8()
    class_code_2 = u8()
    image_blocks = u16("length of the image in 512 bytes", at=0x10)
    vendor_revision = u16()
    code_type = u8()
    last_image = u8("bit 7: no image follows")


class NvPciData(Struct):
    """NPDE: follows the PCI data structure at the next multiple of 16, where there is one."""

    SIZE = 12
    signature = u32("0x4544504E")
    revision = u16()
    length = u16()
    image_blocks = u16("length of the image in 512 bytes, its own half")
    last_image = u8("bit 7: no image follows")


NPDE_SIGNATURE = 0x4544504E
NPDE_REVISIONS = (0x100, 0x101)


class IfrFixed0(Struct):
    """The first three dwords of an IFR header."""

    SIZE = 12
    signature = u32()
    fixed_1 = u32("15:8 version, 30:16 size of the fixed data")
    fixed_2 = u32("19:0 size of all data (version 1 and 2)")


class BitHeader(Struct):
    """The BIT table's header."""

    SIZE = 12
    id = u16()
    signature = u32()
    version = u16()
    header_size = u8()
    token_size = u8()
    token_count = u8()
    checksum = u8("makes the header's bytes add up to 0")


class BitToken(Struct):
    SIZE = 8
    id = u8()
    version = u8()
    data_size = u16()
    pointer = u32("16 bits are used")


class FalconTable(Struct):
    """The table of falcon programs."""

    SIZE = 6
    version = u8()
    header_size = u8()
    entry_size = u8()
    entry_count = u8()
    descriptor_version = u8()
    descriptor_size = u8()


class FalconEntry(Struct):
    SIZE = 6
    application = u8("Application")
    target = u8()
    descriptor = u32("offset of its descriptor, from the extension less the base size")


class Application(IntEnum):
    FWSEC_DEBUG = 0x45
    FWSEC_PRODUCTION = 0x85


class DescriptorHeader(Word):
    """First dword of a descriptor."""

    version = bits(15, 8)
    size = bits(31, 16, "of the descriptor with the signatures that follow it")


class FalconDescriptor(Struct):
    """FALCON_UCODE_DESC_V3; signatures follow, then the image: code, then data."""

    SIZE = 44
    header = word(DescriptorHeader)
    stored_size = u32()
    pkc_data_offset = u32("where in DMEM the signature goes")
    interface_offset = u32("where in DMEM the application interface lies")
    imem_phys_base = u32()
    imem_load_size = u32()
    imem_virt_base = u32()
    dmem_phys_base = u32()
    dmem_load_size = u32()
    engine_id_mask = u16()
    ucode_id = u8()
    signature_count = u8()
    signature_versions = u16("a bit for each fuse version that a signature is for")
    reserved = u16()


class InterfaceHeader(Struct):
    """FALCON_APPLICATION_INTERFACE_HEADER_V1."""

    SIZE = 4
    version = u8()
    header_size = u8()
    entry_size = u8()
    entry_count = u8()


class InterfaceEntry(Struct):
    SIZE = 8
    id = u32()
    dmem_offset = u32()


DMEM_MAPPER = 4
"""Interface entry that leads to the `DmemMapper`."""


class DmemMapper(Struct):
    """FALCON_APPLICATION_INTERFACE_DMEM_MAPPER_V3: how FWSEC is told what to do."""

    SIZE = 64
    signature = u32()
    version = u16()
    size = u16()
    command_in_offset = u32("in DMEM")
    command_in_size = u32()
    command_out_offset = u32()
    command_out_size = u32()
    image_data_offset = u32()
    image_data_size = u32()
    printf_buffer = u32()
    build_time = u32()
    ucode_signature = u32()
    init_cmd = u32("InitCommand")
    features = u32()
    command_mask_0 = u32()
    command_mask_1 = u32()
    multi_target_table = u32()


class InitCommand(IntEnum):
    FRTS = 0x15
    """Make the FRTS region and raise WPR2 over it."""
    SB = 0x19


class ReadVbios(Struct):
    """FWSECLIC_READ_VBIOS_DESC."""

    SIZE = 24
    version = u32()
    size = u32()
    image_offset = u64()
    image_size = u32()
    flags = u32("2: the card's own copy")


class FrtsRegion(Struct):
    """FWSECLIC_FRTS_REGION_DESC."""

    SIZE = 20
    version = u32()
    size = u32()
    offset_4k = u32("address in VRAM >> 12")
    size_4k = u32()
    media = u32("2: VRAM")


class FrtsCommand(Struct):
    """FWSECLIC_FRTS_CMD, put at the mapper's command-in offset."""

    SIZE = 44
    read_vbios = embed(ReadVbios)
    region = embed(FrtsRegion)


FRTS_BYTES = 1 << 20


def frts_command(offset: int, size: int = FRTS_BYTES) -> FrtsCommand:
    """The command that puts FRTS at `offset` in VRAM, 4 KiB aligned."""
    return FrtsCommand.make(
        read_vbios=ReadVbios.make(version=1, size=ReadVbios.SIZE, flags=2),
        region=FrtsRegion.make(
            version=1, size=FrtsRegion.SIZE, offset_4k=offset >> 12, size_4k=size >> 12, media=2
        ),
    )


@dataclass(frozen=True)
class Fwsec:
    """FWSEC as a VBIOS holds it.

    image       code, then data; `descriptor.imem_load_size` bytes are code
    signatures  of SIGNATURE_BYTES each, one per set bit of `descriptor.signature_versions`
    """

    descriptor: FalconDescriptor
    image: bytes
    signatures: tuple[bytes, ...]


def read_fwsec(rom: bytes) -> Fwsec:
    """FWSEC out of a VBIOS. Raises CorruptFile where that is not one."""
    reader = _Reader(rom)
    base, extension = reader.images()
    bit = reader.find_bit(base)
    table_at = reader.falcon_table(base, bit) + extension
    table = reader.view(FalconTable, table_at, "the table of falcon programs")
    step = table.entry_size
    if step < FalconEntry.SIZE or table.header_size < FalconTable.SIZE:
        raise reader.wrong(f"entries of {step} bytes in the table of falcon programs")
    for index in range(table.entry_count):
        at = table_at + table.header_size + index * step
        entry = reader.view(FalconEntry, at, "a falcon program's entry")
        if entry.application == Application.FWSEC_PRODUCTION:
            return reader.fwsec(extension + entry.descriptor)
    raise reader.wrong("no FWSEC among its falcon programs")


class _Reader:
    """One VBIOS; every offset is checked."""

    def __init__(self, rom: bytes) -> None:
        self._rom = rom

    def view(self, kind: type[S], at: int, what: str) -> S:
        if not 0 <= at <= len(self._rom) - kind.SIZE:
            raise self.wrong(f"{what} would lie at {at:#x}")
        return kind(self._rom, at)

    def cut(self, at: int, size: int, what: str) -> bytes:
        if size <= 0 or not 0 <= at <= len(self._rom) - size:
            raise self.wrong(f"{what} would lie at {at:#x}, {size:#x} bytes")
        return self._rom[at : at + size]

    def images(self) -> tuple[int, int]:
        """Where the base image begins, and what pointers into the extension count from."""
        at = self._skip_ifr()
        base: tuple[int, int] | None = None
        while True:
            header = self.view(RomHeader, at, "an image")
            if header.signature not in ROM_SIGNATURES:
                raise self.wrong(f"no image at {at:#x}")
            data = self.view(PciData, at + header.pci_data, "an image's PCI data")
            if data.signature not in PCI_SIGNATURES:
                raise self.wrong(f"the image at {at:#x} has no PCI data")
            size = self._blocks(at + header.pci_data, data) * BLOCK_BYTES
            if size == 0:
                raise self.wrong(f"the image at {at:#x} has no size")
            if data.code_type == CodeType.BASE and base is None:
                base = at, size
            if data.code_type == CodeType.EXTENSION:
                if base is None:
                    raise self.wrong("its extension comes before its base")
                return base[0], at - base[1]
            # `last_image` is not heeded: the extension follows the image that claims to be last.
            at += size

    def _blocks(self, at: int, data: PciData) -> int:
        """Length of an image: its own half where NPDE tells it, as `s_locateExpansionRoms` does."""
        more_at = round_up(at + data.length, 16)
        if more_at + NvPciData.SIZE > len(self._rom):
            return data.image_blocks
        more = NvPciData(self._rom, more_at)
        known = more.signature == NPDE_SIGNATURE and more.revision in NPDE_REVISIONS
        return more.image_blocks if known else data.image_blocks

    def _skip_ifr(self) -> int:
        """Where the first image begins. Source: `s_romImgFindPciHeader_TU102`."""
        start = self.view(IfrFixed0, 0, "its first words")
        if start.signature != IFR_SIGNATURE:
            return 0
        version, fixed_size = start.fixed_1 >> 8 & 0xFF, start.fixed_1 >> 16 & 0x7FFF
        if version in (1, 2):
            fixed = self.view(_Number, fixed_size + 4, "the IFR's extended section")
            return fixed.value
        if version == 3:
            total = start.fixed_2 & 0xF_FFFF
            directory = self.view(_Number, total, "the IFR's flash status").value + 4096
            found = self.view(_Directory, directory, "the IFR's ROM directory")
            if found.signature != _DIRECTORY_SIGNATURE:
                raise self.wrong("the IFR's ROM directory is not one")
            return found.rom_offset
        raise self.wrong(f"its IFR header is of version {version}")

    def find_bit(self, base: int) -> int:
        """Where the BIT table lies."""
        pattern = BIT_ID.to_bytes(2, "little") + BIT_SIGNATURE.to_bytes(4, "little")
        at = self._rom.find(pattern, base)
        if at < 0:
            raise self.wrong("it has no BIT table")
        header = self.view(BitHeader, at, "the BIT table")
        if header.token_size < BitToken.SIZE or header.header_size < BitHeader.SIZE:
            raise self.wrong("the sizes in its BIT table are impossible")
        if sum(self.cut(at, header.header_size, "the BIT table")) & 0xFF:
            raise self.wrong("its BIT table's checksum is wrong")
        return at

    def falcon_table(self, base: int, bit: int) -> int:
        """What the falcon token points to: the table's offset in the extension's counting."""
        header = BitHeader(self._rom, bit)
        for index in range(header.token_count):
            at = bit + header.header_size + index * header.token_size
            token = self.view(BitToken, at, "a BIT token")
            if token.id == FALCON_DATA and token.version == 2 and token.data_size >= 4:
                where = base + (token.pointer & 0xFFFF)
                return self.view(_Number, where, "the falcon data").value
        raise self.wrong("its BIT table has no falcon data")

    def fwsec(self, at: int) -> Fwsec:
        descriptor = self.view(FalconDescriptor, at, "FWSEC's descriptor")
        header = descriptor.header
        if header.version != 3:
            raise self.wrong(f"FWSEC's descriptor is of version {header.version}")
        count = descriptor.signature_count
        signed = header.size - FalconDescriptor.SIZE
        if count == 0 or signed != count * SIGNATURE_BYTES:
            raise self.wrong(f"FWSEC has {count} signatures in {signed} bytes")
        first = at + FalconDescriptor.SIZE
        signatures = tuple(
            self.cut(first + index * SIGNATURE_BYTES, SIGNATURE_BYTES, "a signature of FWSEC")
            for index in range(count)
        )
        code, data = descriptor.imem_load_size, descriptor.dmem_load_size
        if code % 256 or data % 256 or not code or not data:
            raise self.wrong(f"FWSEC's parts have {code:#x} and {data:#x} bytes")
        if descriptor.stored_size < code + data:
            raise self.wrong("FWSEC is smaller than its parts")
        if descriptor.pkc_data_offset + SIGNATURE_BYTES > data:
            raise self.wrong("FWSEC's signature would lie outside of its data")
        image = self.cut(at + header.size, code + data, "FWSEC")
        return Fwsec(FalconDescriptor(bytes(descriptor)), image, signatures)

    def wrong(self, reason: str) -> CorruptFile:
        return CorruptFile(
            f"the card's VBIOS cannot be used: {reason}",
            cause="it is damaged, the card was read while it had no power, or its layout is new",
            next="switch the enclosure off and on, then  exosuit doctor",
            reason=reason,
        )


class _Number(Struct):
    """A pointer."""

    value = u32()


_DIRECTORY_SIGNATURE = 0x44524652
"""RFRD."""


class _Directory(Struct):
    """The ROM directory of IFR version 3."""

    SIZE = 12
    signature = u32()
    unknown_4 = u32()
    rom_offset = u32()


def find_mapper(fwsec: Fwsec) -> int:
    """Offset in DMEM of FWSEC's `DmemMapper`. Raises CorruptFile."""
    code = fwsec.descriptor.imem_load_size
    reader = _Reader(fwsec.image[code:])
    at = fwsec.descriptor.interface_offset
    header = reader.view(InterfaceHeader, at, "FWSEC's interface")
    if header.entry_size < InterfaceEntry.SIZE:
        raise reader.wrong(f"FWSEC's interface has entries of {header.entry_size} bytes")
    for index in range(header.entry_count):
        place = at + header.header_size + index * header.entry_size
        entry = reader.view(InterfaceEntry, place, "an entry of FWSEC's interface")
        if entry.id == DMEM_MAPPER:
            mapper = reader.view(DmemMapper, entry.dmem_offset, "FWSEC's DMEM mapper")
            reader.cut(mapper.command_in_offset, FrtsCommand.SIZE, "FWSEC's command")
            return entry.dmem_offset
    raise reader.wrong("FWSEC has no DMEM mapper")


def choose_signature(fwsec: Fwsec, fuse_version: int) -> bytes:
    """The signature for a card whose fuses are at `fuse_version`, a bit number.

    Signatures are ordered by the set bits of `signature_versions`. Raises CorruptFile where none
    is for these fuses.
    """
    versions = fwsec.descriptor.signature_versions
    if not versions >> fuse_version & 1:
        raise _Reader(b"").wrong(f"FWSEC has no signature for fuse version {fuse_version}")
    index = (versions & ((1 << fuse_version) - 1)).bit_count()
    if index >= len(fwsec.signatures):
        raise _Reader(b"").wrong("FWSEC has fewer signatures than it lists")
    return fwsec.signatures[index]
