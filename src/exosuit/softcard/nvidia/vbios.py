"""A VBIOS for software cards: real structures around an FWSEC with nothing in it.

Its base image has the BIT table where all cards of these families have it, then comes an EFI image
that nobody reads, then the extension with the falcon programs. FWSEC's code is a mark; its data has
the interface that a host fills in, and that the model reads back from the falcon's memory. Two
signatures are offered, of which the card's fuses take one.
"""

from __future__ import annotations

from exosuit.silicon.nvidia.boot import VBIOS_BYTES
from exosuit.silicon.nvidia.chips import VENDOR_ID
from exosuit.silicon.nvidia.vbios import (
    BIT_ID,
    BIT_SIGNATURE,
    BLOCK_BYTES,
    DMEM_MAPPER,
    FALCON_DATA,
    NPDE_SIGNATURE,
    PCI_SIGNATURES,
    ROM_SIGNATURES,
    SIGNATURE_BYTES,
    Application,
    BitHeader,
    BitToken,
    CodeType,
    DescriptorHeader,
    DmemMapper,
    FalconDescriptor,
    FalconEntry,
    FalconTable,
    FrtsCommand,
    InterfaceEntry,
    InterfaceHeader,
    NvPciData,
    PciData,
    RomHeader,
)
from exosuit.units import round_up

BIT_AT = 0x1B0
"""Where the table lies on real cards; tinygrad looks nowhere else."""
BASE_BYTES, EFI_BYTES = 0x1_0000, 0x8000
CODE_BYTES, DATA_BYTES = 0x2000, 0x1000
INTERFACE_AT, MAPPER_AT, COMMAND_AT, SIGNATURE_AT = 0x40, 0x100, 0x200, 0x800
"""Places in FWSEC's data."""
UCODE_ID, ENGINE_MASK = 9, 0x400
FUSE_VERSION = 1
"""Bit of the signature that the fuses of these cards take."""
SIGNATURE_VERSIONS = 0b11
MARK = b"exosuit software card: no firmware "

_PCI_DATA_AT, _TOKEN_DATA_AT = 0x180, 0x400
_TABLE_AT, _DESCRIPTOR_AT = 0x400, 0x800


def signature(version: int) -> bytes:
    """What stands for the signature of FWSEC for one fuse version."""
    text = MARK + b"signature %d " % version
    return (text * (SIGNATURE_BYTES // len(text) + 1))[:SIGNATURE_BYTES]


def code() -> bytes:
    """FWSEC's code."""
    return (MARK * (CODE_BYTES // len(MARK) + 1))[:CODE_BYTES]


def make_vbios(device_id: int) -> bytes:
    """All that a card shows at its VBIOS window."""
    extension_at = BASE_BYTES + EFI_BYTES
    rom = bytearray(b"\xff" * VBIOS_BYTES)
    rom[:BASE_BYTES] = _base(device_id)
    rom[BASE_BYTES:extension_at] = _image(device_id, EFI_BYTES, CodeType.EFI, last=True)
    extension = _extension(device_id)
    rom[extension_at : extension_at + len(extension)] = extension
    return bytes(rom)


def _image(device_id: int, size: int, kind: CodeType, *, last: bool) -> bytearray:
    image = bytearray(size)
    RomHeader(image).assign(signature=ROM_SIGNATURES[0], pci_data=_PCI_DATA_AT)
    last_image = 0x80 if last else 0
    PciData(image, _PCI_DATA_AT).assign(
        signature=PCI_SIGNATURES[0], vendor_id=VENDOR_ID, device_id=device_id,
        length=PciData.SIZE, class_code_2=3, image_blocks=size // BLOCK_BYTES, code_type=kind,
        last_image=last_image,
    )  # fmt: skip
    NvPciData(image, round_up(_PCI_DATA_AT + PciData.SIZE, 16)).assign(
        signature=NPDE_SIGNATURE, revision=0x101, length=NvPciData.SIZE,
        image_blocks=size // BLOCK_BYTES, last_image=last_image,
    )  # fmt: skip
    return image


def _base(device_id: int) -> bytearray:
    image = _image(device_id, BASE_BYTES, CodeType.BASE, last=False)
    tokens = [
        BitToken.make(id=0x32, version=1, data_size=4, pointer=_TOKEN_DATA_AT + 0x10),
        BitToken.make(id=FALCON_DATA, version=2, data_size=4, pointer=_TOKEN_DATA_AT),
    ]
    header = BitHeader(image, BIT_AT)
    header.assign(
        id=BIT_ID, signature=BIT_SIGNATURE, version=0x100, header_size=BitHeader.SIZE,
        token_size=BitToken.SIZE, token_count=len(tokens),
    )  # fmt: skip
    header.checksum = -sum(bytes(header)) & 0xFF
    for index, token in enumerate(tokens):
        at = BIT_AT + BitHeader.SIZE + index * BitToken.SIZE
        image[at : at + BitToken.SIZE] = bytes(token)
    # Pointers of falcon data count from the extension less the size of the base image.
    pointer = BASE_BYTES + _TABLE_AT
    image[_TOKEN_DATA_AT : _TOKEN_DATA_AT + 4] = pointer.to_bytes(4, "little")
    return image


def _extension(device_id: int) -> bytearray:
    descriptor = _descriptor()
    image_at = _DESCRIPTOR_AT + len(descriptor)
    size = round_up(image_at + CODE_BYTES + DATA_BYTES, BLOCK_BYTES)
    image = _image(device_id, size, CodeType.EXTENSION, last=True)
    entries = [
        FalconEntry.make(application=0x07, descriptor=0),
        FalconEntry.make(
            application=Application.FWSEC_PRODUCTION, descriptor=BASE_BYTES + _DESCRIPTOR_AT
        ),
    ]
    FalconTable(image, _TABLE_AT).assign(
        version=1, header_size=FalconTable.SIZE, entry_size=FalconEntry.SIZE,
        entry_count=len(entries), descriptor_version=3, descriptor_size=FalconDescriptor.SIZE,
    )  # fmt: skip
    at = _TABLE_AT + FalconTable.SIZE
    for entry in entries:
        image[at : at + FalconEntry.SIZE] = bytes(entry)
        at += FalconEntry.SIZE
    image[_DESCRIPTOR_AT:image_at] = descriptor
    image[image_at : image_at + CODE_BYTES] = code()
    image[image_at + CODE_BYTES : image_at + CODE_BYTES + DATA_BYTES] = _data()
    return image


def _descriptor() -> bytes:
    signatures = [signature(v) for v in range(SIGNATURE_VERSIONS.bit_length())]
    size = FalconDescriptor.SIZE + SIGNATURE_BYTES * len(signatures)
    made = FalconDescriptor.make(
        header=DescriptorHeader(1, version=3, size=size),
        stored_size=CODE_BYTES + DATA_BYTES, pkc_data_offset=SIGNATURE_AT,
        interface_offset=INTERFACE_AT, imem_load_size=CODE_BYTES, dmem_load_size=DATA_BYTES,
        engine_id_mask=ENGINE_MASK, ucode_id=UCODE_ID, signature_count=len(signatures),
        signature_versions=SIGNATURE_VERSIONS,
    )  # fmt: skip
    return bytes(made) + b"".join(signatures)


def _data() -> bytearray:
    image = bytearray(DATA_BYTES)
    InterfaceHeader(image, INTERFACE_AT).assign(
        version=1, header_size=InterfaceHeader.SIZE, entry_size=InterfaceEntry.SIZE, entry_count=2
    )
    first = INTERFACE_AT + InterfaceHeader.SIZE
    InterfaceEntry(image, first).assign(id=1, dmem_offset=0x80)
    InterfaceEntry(image, first + InterfaceEntry.SIZE).assign(id=DMEM_MAPPER, dmem_offset=MAPPER_AT)
    DmemMapper(image, MAPPER_AT).assign(
        signature=int.from_bytes(b"DMAP", "little"), version=3, size=DmemMapper.SIZE,
        command_in_offset=COMMAND_AT, command_in_size=FrtsCommand.SIZE,
        command_out_offset=COMMAND_AT + 0x100, command_out_size=0x100,
    )  # fmt: skip
    return image
