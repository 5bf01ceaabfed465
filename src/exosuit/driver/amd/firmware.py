"""Firmware files of one card, taken apart into the pieces that its PSP loads, in order.

The files are somebody else's and may be damaged: every offset is checked against the file. Whether
a file is the right one is the source's business, which knows its hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from exosuit.datasheet import Struct
from exosuit.driver.firmware import FirmwareSource
from exosuit.errors import CorruptFile
from exosuit.silicon.amd.discovery import Discovery, HardwareId, Version
from exosuit.silicon.amd.firmware import (
    BOOTLOADER_ORDER,
    SPL_IS_KDB,
    CommonHeader,
    GfxHeader2,
    ImuHeader,
    PieceType,
    PspHeader,
    PspHeader21,
    PspPiece,
    PspPieceType,
    RlcHeader22,
    RlcHeader23,
    SdmaHeader2,
    SdmaHeader3,
)
from exosuit.silicon.amd.psp import BootloaderCommand

S = TypeVar("S", bound=Struct)

KICKER_BOARDS = {(0x744B, 0x00), (0x7551, 0xC8)}
"""Device id and revision of boards that take files of their own (Linux `amdgpu_is_kicker_fw`)."""
_KICKER_FILES = ("sos", "imu", "rlc", "smu")


@dataclass(frozen=True)
class Engine:
    """An RS64 engine of the command processor: where its program begins."""

    start: int


@dataclass(frozen=True)
class Firmware:
    """All that a cold boot loads.

    bootloader  what the PSP's boot loader takes, in order
    toc         table of contents, empty where there is none
    pieces      what its secure OS takes, in order; the SMU's first
    engines     of the command processor by their code's type
    """

    bootloader: list[tuple[BootloaderCommand, bytes]]
    toc: bytes
    pieces: list[tuple[PieceType, bytes]]
    engines: dict[PieceType, Engine]


_ENGINES = {
    "pfp": (PieceType.RS64_PFP, PieceType.RS64_PFP_P0_STACK),
    "me": (PieceType.RS64_ME, PieceType.RS64_ME_P0_STACK),
    "mec": (PieceType.RS64_MEC, PieceType.RS64_MEC_P0_STACK),
}


def file_names(discovery: Discovery, device_id: int, revision: int) -> dict[str, str]:
    """The files that a card needs: role to path below the firmware folder."""
    versions = {
        "sos": ("psp", HardwareId.MP0),
        "smu": ("smu", HardwareId.MP1),
        "sdma": ("sdma", HardwareId.SDMA0),
    }
    graphics = discovery.version(HardwareId.GC)
    roles = ["mec", "imu", "rlc"] if graphics[0] == 11 else ["pfp", "me", "mec", "imu", "rlc"]
    names = {role: f"gc_{_text(graphics)}_{role}" for role in roles}
    for role, (block, hardware_id) in versions.items():
        names[role] = f"{block}_{_text(discovery.version(hardware_id))}"
    names["sos"] += "_sos"
    if (device_id, revision) in KICKER_BOARDS:
        names |= {role: f"{names[role]}_kicker" for role in _KICKER_FILES}
    return {role: f"amdgpu/{name}.bin" for role, name in names.items()}


def load_firmware(source: FirmwareSource, names: dict[str, str], psp_version: Version) -> Firmware:
    """Read and take apart every file. Raises CorruptFile, and whatever the source raises."""
    files = {role: _File(path, source.read(path)) for role, path in names.items()}
    parts = files["sos"].psp_parts()
    kdb = parts.get(PspPieceType.KDB)
    if psp_version[0] == SPL_IS_KDB and kdb is not None:
        parts[PspPieceType.SPL] = kdb
    bootloader = [(command, parts[kind]) for command, kind in BOOTLOADER_ORDER if kind in parts]
    if PspPieceType.SOS not in parts or kdb is None:
        raise files["sos"].wrong("it lacks the secure OS or its keys")
    pieces = [(PieceType.SMU, files["smu"].ucode())]
    pieces += files["sdma"].sdma_pieces()
    engines: dict[PieceType, Engine] = {}
    for role, (code, stack) in _ENGINES.items():
        if role in files:
            header = files[role].view(GfxHeader2)
            engines[code] = Engine(header.start_low | header.start_high << 32)
            pieces.append((code, files[role].cut(header.code_offset, header.code_size)))
            pieces.append((stack, files[role].cut(header.data_offset, header.data_size)))
    pieces += files["imu"].imu_pieces()
    pieces += files["rlc"].rlc_pieces()
    return Firmware(bootloader, parts.get(PspPieceType.TOC, b""), pieces, engines)


def _text(version: Version) -> str:
    return "_".join(map(str, version))


class _File:
    """One file; nothing in it is believed."""

    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._data = data
        self.header = self.view(CommonHeader)
        if self.header.size_bytes != len(data):
            raise self.wrong(f"it says that it has {self.header.size_bytes} bytes")

    def view(self, kind: type[S]) -> S:
        if len(self._data) < kind.SIZE:
            raise self.wrong(f"it has {len(self._data)} bytes")
        return kind(self._data)

    def cut(self, offset: int, size: int) -> bytes:
        if size == 0 or offset + size > len(self._data):
            raise self.wrong(f"a piece lies at {offset:#x}, {size} bytes")
        return self._data[offset : offset + size]

    def ucode(self) -> bytes:
        return self.cut(self.header.ucode_offset, self.header.ucode_size_bytes)

    def psp_parts(self) -> dict[PspPieceType, bytes]:
        first = {0: PspHeader.SIZE, 1: PspHeader21.SIZE}.get(self.header.header_minor)
        if self.header.header_major != 2 or first is None:
            raise self.unknown()
        count = self.view(PspHeader).piece_count
        if first + count * PspPiece.SIZE > len(self._data):
            raise self.wrong(f"it lists {count} pieces")
        found: dict[PspPieceType, bytes] = {}
        for index in range(count):
            piece = PspPiece(self._data, first + index * PspPiece.SIZE)
            if piece.type in _PSP_TYPES:
                offset = self.header.ucode_offset + piece.offset
                found[PspPieceType(piece.type)] = self.cut(offset, piece.size_bytes)
        return found

    def sdma_pieces(self) -> list[tuple[PieceType, bytes]]:
        match self.header.header_major:
            case 2:
                old = self.view(SdmaHeader2)
                context = self.cut(old.ucode_offset, old.context_size)
                return [
                    (PieceType.SDMA_TH1, self.cut(old.control_offset, old.control_size)),
                    (PieceType.SDMA_TH0, context),
                ]
            case 3:
                new = self.view(SdmaHeader3)
                return [(PieceType.SDMA_TH0, self.cut(new.piece_offset, new.piece_size))]
            case _:
                raise self.unknown()

    def imu_pieces(self) -> list[tuple[PieceType, bytes]]:
        header = self.view(ImuHeader)
        data = header.ucode_offset + header.iram_size
        return [
            (PieceType.IMU_I, self.cut(header.ucode_offset, header.iram_size)),
            (PieceType.IMU_D, self.cut(data, header.dram_size)),
        ]

    def rlc_pieces(self) -> list[tuple[PieceType, bytes]]:
        """RLC_G comes last: with it the RLC can start all the others."""
        if self.header.header_major != 2 or self.header.header_minor not in (2, 3):
            raise self.unknown()
        header = self.view(RlcHeader22)
        pieces = [
            (PieceType.RLC_IRAM, self.cut(header.iram_offset, header.iram_size)),
            (PieceType.RLC_DRAM_BOOT, self.cut(header.dram_offset, header.dram_size)),
        ]
        if self.header.header_minor == 3:
            more = self.view(RlcHeader23)
            pieces.append((PieceType.RLC_P, self.cut(more.rlcp_offset, more.rlcp_size)))
            pieces.append((PieceType.RLC_V, self.cut(more.rlcv_offset, more.rlcv_size)))
        return [*pieces, (PieceType.RLC_G, self.ucode())]

    def unknown(self) -> CorruptFile:
        header = self.header
        return self.wrong(f"its header is of version {header.header_major}.{header.header_minor}")

    def wrong(self, reason: str) -> CorruptFile:
        return CorruptFile(
            f"the firmware file {self._path} cannot be used: {reason}",
            cause="it is damaged, or of a release whose layout exosuit does not know",
            next="exosuit setup --yes",
            path=self._path,
            reason=reason,
        )


_PSP_TYPES = {int(kind) for kind in PspPieceType}
