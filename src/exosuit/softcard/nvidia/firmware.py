"""Firmware files for NVIDIA software cards: the layout of real ones, with nothing in them.

A software card takes any bytes, since nobody but the vendor can sign; its driver still needs files
to take apart, patch and load, as for a real card. Sizes are small: the real image of the GSP has
tens of MB. These files are of no use to a real card, which would refuse them.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from exosuit.errors import UsageError
from exosuit.silicon.nvidia.chips import FIRMWARE_VERSION
from exosuit.silicon.nvidia.firmware import (
    IMAGE_SECTION,
    MAGIC,
    VERSION_SECTION,
    BinHeader,
    HsHeader,
    LoadApp,
    LoadHeader,
)
from exosuit.silicon.nvidia.gsp import RiscvDescriptor
from exosuit.silicon.nvidia.vbios import SIGNATURE_BYTES
from exosuit.softcard.nvidia.vbios import MARK
from exosuit.units import round_up

GSP_BYTES = 0x28_3000
"""Not a multiple of 2 MiB: its pages need more than one list."""
FMC_BYTES = 0x1_2000
BOOTLOADER_BYTES = 0x5000
_BOOTER_CODE, _BOOTER_DATA, _BOOTER_OS = 0xE00, 0x600, 0x100
_FAMILIES = ("tu10x", "ga100", "ga10x", "ad10x", "gh100", "gb10x", "gb20x")
_SUFFIX = f"-{FIRMWARE_VERSION}.bin"


class SyntheticFirmware:
    """A source of firmware files: any that a card of GA10x, AD10x or GB20x asks for."""

    def read(self, path: str) -> bytes:
        """The file of that path in linux-firmware. Raises UsageError for one that is none."""
        folder, _, name = path.removeprefix("nvidia/").partition("/gsp/")
        if name.endswith(_SUFFIX) and folder in ("ga102", "ad102", "gb202"):
            match name.removesuffix(_SUFFIX):
                case "gsp":
                    return gsp_image()
                case "bootloader":
                    return bootloader()
                case ("booter_load" | "booter_unload") as booter if folder != "gb202":
                    return make_booter(booter)
                case "fmc" if folder == "gb202":
                    return fmc()
                case _:
                    pass
        raise UsageError(
            f"there is no firmware file {path!r}",
            cause=f"software cards have those of GA10x, AD10x and GB20x, release"
            f" {FIRMWARE_VERSION}",
            next="exosuit list",
            path=path,
        )


def fill(size: int, what: str = "") -> bytes:
    """`size` bytes that say what they are."""
    text = MARK + what.encode() + b" " * bool(what)
    return (text * (size // len(text) + 1))[:size]


def gsp_image() -> bytes:
    """The GSP's image: an ELF file of which only sections are wanted."""
    sections = {
        IMAGE_SECTION: fill(GSP_BYTES, "gsp"),
        VERSION_SECTION: FIRMWARE_VERSION.encode() + b"\0",
        **{f".fwsignature_{family}": fill(0x1000, family) for family in _FAMILIES},
    }
    return _elf(sections, is_64=True)


def fmc() -> bytes:
    """What the FSP starts on the GSP: a 32-bit ELF file with its hash, key and signature."""
    image = fill(FMC_BYTES, "fmc")
    sections = {
        "image": image,
        "hash": hashlib.sha384(image).digest(),
        "publickey": fill(97, "key"),
        "signature": fill(96, "signature"),
    }
    return _elf(sections, is_64=False)


def bootloader() -> bytes:
    """The RISC-V boot loader, which unpacks the GSP's image."""
    descriptor = RiscvDescriptor.make(
        version=5, bootloader_size=BOOTLOADER_BYTES, app_version=0,
        manifest_offset=0x3000, manifest_size=0xA00, monitor_data_offset=0x1000,
        monitor_data_size=0x1000, monitor_code_offset=0x2000, monitor_code_size=0x1000,
    )  # fmt: skip
    return _bin(bytes(descriptor), fill(BOOTLOADER_BYTES, "bootloader"))


def make_booter(name: str) -> bytes:
    """A signed program of SEC2 with two signatures, one for each fuse version."""
    data_at = _BOOTER_OS + _BOOTER_CODE
    image = fill(data_at, name) + bytes(_BOOTER_DATA)
    signatures = fill(SIGNATURE_BYTES, f"{name} 0") + fill(SIGNATURE_BYTES, f"{name} 1")
    head_at = round_up(BinHeader.SIZE, 16)
    load_at = head_at + HsHeader.SIZE
    app_at = load_at + LoadHeader.SIZE
    numbers_at = app_at + LoadApp.SIZE
    signatures_at = numbers_at + 4 * len(_Numbers.__annotations__)
    numbers = _Numbers(patch_location=data_at + 0x10, patch_signature=0, signature_count=2)
    head = HsHeader.make(
        signatures_offset=signatures_at, signatures_size=len(signatures),
        patch_location=numbers_at, patch_signature=numbers_at + 4,
        signature_count=numbers_at + 8, load_header_offset=load_at,
        load_header_size=LoadHeader.SIZE + LoadApp.SIZE,
    )  # fmt: skip
    load = LoadHeader.make(
        os_code_offset=0, os_code_size=_BOOTER_OS, os_data_offset=data_at,
        os_data_size=_BOOTER_DATA, app_count=1,
    )  # fmt: skip
    app = LoadApp.make(code_offset=_BOOTER_OS, code_size=_BOOTER_CODE)
    body = bytes(head) + bytes(load) + bytes(app) + numbers.pack() + signatures
    return _bin(body, image, head_at)


@dataclass(frozen=True)
class _Numbers:
    """Values that the header of a signed program points to."""

    patch_location: int
    patch_signature: int
    signature_count: int

    def pack(self) -> bytes:
        return struct.pack("<3I", self.patch_location, self.patch_signature, self.signature_count)


def _bin(header: bytes, image: bytes, header_at: int = BinHeader.SIZE) -> bytes:
    data_at = round_up(header_at + len(header), 0x100)
    file = bytearray(data_at) + image
    BinHeader(file).assign(
        magic=MAGIC, version=1, size=len(file), header_offset=header_at, data_offset=data_at,
        data_size=len(image),
    )  # fmt: skip
    file[header_at : header_at + len(header)] = header
    return bytes(file)


def _elf(sections: dict[str, bytes], *, is_64: bool) -> bytes:
    """A file of sections with nothing in common but their table. RISC-V, as the real ones."""
    names = bytearray(b"\0")
    places: list[int] = []
    for name in (*sections, ".shstrtab"):
        places.append(len(names))
        names += name.encode() + b"\0"
    head, row = (64, "<IIQQQQIIQQ") if is_64 else (52, "<10I")
    file = bytearray(head)
    rows = [bytes(struct.calcsize(row))]
    for place, content in zip(places, (*sections.values(), bytes(names)), strict=True):
        file += bytes(-len(file) % 16)
        kind = 3 if content == bytes(names) else 1
        rows.append(struct.pack(row, place, kind, 0, 0, len(file), len(content), 0, 0, 1, 0))
        file += content
    file += bytes(-len(file) % 16)
    table = len(file)
    file += b"".join(rows)
    ident = b"\x7fELF" + bytes([2 if is_64 else 1, 1, 1]) + bytes(9)
    file[:head] = struct.pack(
        "<16sHHIQQQIHHHHHH" if is_64 else "<16sHHIIIIIHHHHHH", ident, 2, 243, 1, 0, 0, table, 0,
        head, 0, 0, struct.calcsize(row), len(rows), len(rows) - 1,
    )  # fmt: skip
    return bytes(file)
