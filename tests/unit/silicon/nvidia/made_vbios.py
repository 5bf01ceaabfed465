"""A VBIOS put together by hand for tests, independent of the software card's."""

from __future__ import annotations

import struct

BASE_BYTES, EFI_BYTES = 0x2000, 0x400
BIT_AT = 0x1B0
CODE, DATA = 0x300, 0x400
SIGNATURES = [bytes([value]) * 384 for value in (0xA1, 0xB2)]
MAPPER_AT, COMMAND_AT, INTERFACE_AT, PKC_AT = 0x40, 0x100, 0x10, 0x200


def image(size: int, code_type: int, last: bool, npde: int | None = None) -> bytearray:
    """One expansion-ROM image with its PCI data at 0x20; NPDE at 0x40 where its blocks are told."""
    made = bytearray(size)
    struct.pack_into("<H", made, 0, 0xAA55)
    struct.pack_into("<H", made, 0x18, 0x20)
    told = size // 512 if npde is None else npde
    struct.pack_into(
        "<4sHHHHB3sHHBB", made, 0x20, b"PCIR", 0x10DE, 0x2204, 0, 0x18, 0, b"\0\0\3",
        told, 0, code_type, 0x80 if last else 0,
    )  # fmt: skip
    if npde is not None:
        struct.pack_into("<4sHHHB", made, 0x40, b"NPDE", 0x100, 0xB, size // 512, 0)
    return made


def fwsec(versions: int = 0b110) -> bytes:
    """Descriptor, two signatures and the image."""
    data = bytearray(DATA)
    struct.pack_into("<BBBB", data, INTERFACE_AT, 1, 4, 8, 2)
    struct.pack_into("<IIII", data, INTERFACE_AT + 4, 1, 0x20, 4, MAPPER_AT)
    mapper = struct.pack("<IHHII", 0x50414D44, 3, 64, COMMAND_AT, 0x40)
    data[MAPPER_AT : MAPPER_AT + len(mapper)] = mapper
    header = (44 + 2 * 384) << 16 | 3 << 8 | 1
    descriptor = struct.pack(
        "<IIIIIIIIIHBBHH", header, CODE + DATA, PKC_AT, INTERFACE_AT, 0, CODE, 0x1000, 0, DATA,
        0x400, 9, 2, versions, 0,
    )  # fmt: skip
    assert len(descriptor) == 44
    code = bytes(range(256)) * (CODE // 256)
    return descriptor + b"".join(SIGNATURES) + code + bytes(data)


def rom(ifr: int = 0, *, npde: bool = False) -> bytes:
    """A whole VBIOS: base, EFI driver, extension; `ifr` bytes of an IFR header before it."""
    # NPDE tells the base's own size where the PCI data tells that of all images together.
    base = image(BASE_BYTES, 0x00, False, npde=0x80 if npde else None)
    efi = image(EFI_BYTES, 0x03, True)
    extension = image(0x2000, 0xE0, True)
    table_at, descriptor_at = 0x100, 0x200
    struct.pack_into("<BBBBBB", extension, table_at, 1, 6, 6, 2, 3, 44)
    # Pointers count from the extension less the base's size.
    first = BASE_BYTES
    struct.pack_into("<BBI", extension, table_at + 6, 0x45, 7, first + 0x1F00)
    struct.pack_into("<BBI", extension, table_at + 12, 0x85, 7, first + descriptor_at)
    program = fwsec()
    extension[descriptor_at : descriptor_at + len(program)] = program
    header = struct.pack("<HIHBBB", 0xB8FF, 0x00544942, 0x100, 12, 8, 2)
    struct.pack_into("<12s", base, BIT_AT, header + bytes([-sum(header) & 0xFF]))
    struct.pack_into("<BBHI", base, BIT_AT + 12, 0x42, 2, 4, 0x1000)
    struct.pack_into("<BBHI", base, BIT_AT + 20, 0x70, 2, 4, 0x300)
    struct.pack_into("<I", base, 0x300, first + table_at)
    start = bytearray(ifr)
    if ifr:
        struct.pack_into("<III", start, 0, 0x4947564E, 0x10 << 16 | 1 << 8, 0)
        struct.pack_into("<I", start, 0x14, ifr)
    whole = bytes(start) + bytes(base) + bytes(efi) + bytes(extension)
    return whole.ljust(1 << 20, b"\xff")
