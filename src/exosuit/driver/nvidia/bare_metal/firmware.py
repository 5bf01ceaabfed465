"""Firmware files of one card, taken apart into what its boot hands over.

The files are somebody else's and may be damaged: every offset is checked against the file. Whether
a file is the right one is the source's business, which knows its hash.

Sources: open-gpu-kernel-modules 570.144 `nouveau/extract-firmware-nouveau.py`; the System V ABI
(ELF).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

from exosuit.datasheet import Struct
from exosuit.driver.firmware import FirmwareSource
from exosuit.errors import CorruptFile
from exosuit.silicon.nvidia.chips import GSP_IMAGE, Chip
from exosuit.silicon.nvidia.firmware import (
    FMC_SECTIONS,
    IMAGE_SECTION,
    MAGIC,
    BinHeader,
    HsHeader,
    LoadApp,
    LoadHeader,
)
from exosuit.silicon.nvidia.fsp import HASH_BYTES, KEY_BYTES
from exosuit.silicon.nvidia.fsp import SIGNATURE_BYTES as FMC_SIGNATURE_BYTES
from exosuit.silicon.nvidia.gsp import SIGNATURE_BYTES, RiscvDescriptor
from exosuit.units import round_up

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True)
class GspImage:
    """GSP-RM itself, and its signature for one family."""

    image: bytes
    signature: bytes


@dataclass(frozen=True)
class Bootloader:
    """What unpacks GSP-RM on the card."""

    code: bytes
    descriptor: RiscvDescriptor


@dataclass(frozen=True)
class Booter:
    """SEC2's program.

    signatures    for the newest fuses first
    signature_at  where in the image one of them goes, within its data
    """

    image: bytes
    code_offset: int
    code_bytes: int
    data_offset: int
    data_bytes: int
    signatures: tuple[bytes, ...]
    signature_at: int

    def signed(self, fuses: int) -> bytes:
        """The image with the signature for a card whose fuses are at a version.

        Raises CorruptFile where it has none (`s_patchBooterUcodeSignature`).
        """
        index = len(self.signatures) - 1 - fuses if len(self.signatures) > 1 else 0
        if index < 0 or not any(self.signatures[index]):
            raise CorruptFile(
                f"the booter has no signature for fuse version {fuses}",
                cause="the firmware is of another age than this card, or the card reads nonsense",
                next="exosuit setup --yes",
                fuses=fuses,
            )
        signature = self.signatures[index]
        image = bytearray(self.image)
        image[self.signature_at : self.signature_at + len(signature)] = signature
        return bytes(image)


@dataclass(frozen=True)
class Fmc:
    """What the FSP checks and starts on the GSP."""

    image: bytes
    hash: bytes
    public_key: bytes
    signature: bytes


def load_gsp(source: FirmwareSource, chip: Chip) -> GspImage:
    """The image, with the signature of the chip's family."""
    file = _File(GSP_IMAGE, source.read(GSP_IMAGE))
    sections = file.sections()
    for name in (IMAGE_SECTION, chip.signature):
        if not sections.get(name):
            raise file.wrong(f"it has no section {name}")
    signature = sections[chip.signature]
    if len(signature) > SIGNATURE_BYTES:
        raise file.wrong(f"its signature has {len(signature)} bytes")
    return GspImage(sections[IMAGE_SECTION], signature)


def load_bootloader(source: FirmwareSource, chip: Chip) -> Bootloader:
    """The RISC-V boot loader of a chip's family."""
    path = chip.firmware("bootloader")
    file = _File(path, source.read(path))
    header = file.header()
    descriptor = file.view(RiscvDescriptor, header.header_offset)
    return Bootloader(
        file.cut(header.data_offset, header.data_size), RiscvDescriptor(bytes(descriptor))
    )


def load_booter(source: FirmwareSource, chip: Chip, name: str = "booter_load") -> Booter:
    """SEC2's program, with its signatures for production cards."""
    path = chip.firmware(name)
    file = _File(path, source.read(path))
    header = file.header()
    signed = file.view(HsHeader, header.header_offset)
    load = file.view(LoadHeader, signed.load_header_offset)
    if load.app_count == 0:
        raise file.wrong("it has no program")
    app = file.view(LoadApp, signed.load_header_offset + LoadHeader.SIZE)
    count = file.number(signed.signature_count)
    if count == 0 or signed.signatures_size % count:
        raise file.wrong(f"it has {count} signatures in {signed.signatures_size} bytes")
    size = signed.signatures_size // count
    first = signed.signatures_offset + file.number(signed.patch_signature)
    signatures = tuple(file.cut(first + index * size, size) for index in range(count))
    image = file.cut(header.data_offset, header.data_size)
    where = file.number(signed.patch_location)
    parts = ((where, size), (app.code_offset, app.code_size),
             (load.os_data_offset, load.os_data_size))  # fmt: skip
    for at, length in parts:
        if not length or at + length > len(image):
            raise file.wrong(f"a part lies at {at:#x}, {length} bytes, outside of its image")
    if where < load.os_data_offset:
        raise file.wrong("its signature would not lie in its data")
    return Booter(
        image, app.code_offset, app.code_size, load.os_data_offset, load.os_data_size,
        signatures, where,
    )  # fmt: skip


def load_fmc(source: FirmwareSource, chip: Chip) -> Fmc:
    """The FMC of a chip's family."""
    path = chip.firmware("fmc")
    file = _File(path, source.read(path))
    sections = file.sections()
    for name in FMC_SECTIONS:
        if not sections.get(name):
            raise file.wrong(f"it has no section {name}")
    key = sections["publickey"]
    made = Fmc(
        sections["image"],
        sections["hash"],
        key.ljust(round_up(len(key), 4), b"\0"),
        sections["signature"],
    )
    if len(made.hash) != HASH_BYTES:
        raise file.wrong(f"its hash has {len(made.hash)} bytes")
    if len(made.public_key) > KEY_BYTES or len(made.signature) > FMC_SIGNATURE_BYTES:
        raise file.wrong("its key or its signature is too long")
    return made


class _File:
    """One file; nothing in it is believed."""

    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._data = data

    def header(self) -> BinHeader:
        header = self.view(BinHeader, 0)
        if header.magic != MAGIC:
            raise self.wrong(f"it begins with {header.magic:#x}")
        return header

    def view(self, kind: type[S], at: int) -> S:
        if at + kind.SIZE > len(self._data):
            raise self.wrong(f"a {kind.__name__} would lie at {at:#x}")
        return kind(self._data, at)

    def cut(self, offset: int, size: int) -> bytes:
        if size == 0 or offset + size > len(self._data):
            raise self.wrong(f"a piece lies at {offset:#x}, {size} bytes")
        return self._data[offset : offset + size]

    def number(self, offset: int) -> int:
        return int.from_bytes(self.cut(offset, 4), "little")

    def sections(self) -> dict[str, bytes]:
        """Sections of an ELF file, of 32 or 64 bits, by name."""
        data = self._data
        if len(data) < 0x40 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] != 1:
            raise self.wrong("it is no little-endian ELF file")
        if data[4] == 2:
            (table_at,) = struct.unpack_from("<Q", data, 0x28)
            step, count, names = struct.unpack_from("<HHH", data, 0x3A)
            least, layout, first = 0x40, "<QQ", 0x18
        else:
            (table_at,) = struct.unpack_from("<I", data, 0x20)
            step, count, names = struct.unpack_from("<HHH", data, 0x2E)
            least, layout, first = 0x28, "<II", 0x10
        if step < least or names >= count or table_at + step * count > len(data):
            raise self.wrong("its table of sections is not in it")

        def section(index: int) -> bytes:
            at = table_at + index * step
            (kind,) = struct.unpack_from("<I", data, at + 4)
            offset, size = struct.unpack_from(layout, data, at + first)
            if kind in (0, 8) or size == 0:  # nothing, or no bytes in the file
                return b""
            return self.cut(offset, size)

        texts = section(names)
        found: dict[str, bytes] = {}
        for index in range(count):
            (name_at,) = struct.unpack_from("<I", data, table_at + index * step)
            end = texts.find(b"\0", name_at)
            if name_at < len(texts) and end >= 0:
                found[texts[name_at:end].decode("ascii", "replace")] = section(index)
        return found

    def wrong(self, reason: str) -> CorruptFile:
        return CorruptFile(
            f"the firmware file {self._path} cannot be used: {reason}",
            cause="it is damaged, or of a release whose layout exosuit does not know",
            next="exosuit setup --yes",
            path=self._path,
            reason=reason,
        )
