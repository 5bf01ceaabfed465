"""Firmware files for software cards: the layout and sizes of real ones, with nothing in them.

A software card's security processor takes any bytes, since nobody but the vendor can sign; its
driver still needs files to take apart and to load, piece by piece, as on a real card. These are
made for that. They are of no use to a real card, which would refuse them.

Source of the sizes: a recent linux-firmware.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exosuit.errors import UsageError
from exosuit.silicon.amd.firmware import (
    CommonHeader,
    GfxHeader2,
    ImuHeader,
    PspHeader,
    PspPiece,
    PspPieceType,
    RlcHeader22,
    RlcHeader23,
    SdmaHeader2,
    SdmaHeader3,
    SmcHeader,
)

UCODE_OFFSET = 0x100
MARK = b"exosuit software card: no firmware "
"""What the pieces are filled with, so that nobody takes them for something else."""
START_ADDRESS = 0x0007_0000_0000_3000

_PSP_13 = {
    PspPieceType.SYS_DRV: 0x26790, PspPieceType.SOS: 0x18380, PspPieceType.TOC: 0x900,
    PspPieceType.KDB: 0x1700, PspPieceType.SPL: 0x2A0, PspPieceType.RL: 0x960,
}  # fmt: skip
_PSP_14 = {
    PspPieceType.KDB: 0x1AA0, PspPieceType.SYS_DRV: 0x131C0, PspPieceType.SOS: 0x1EA20,
    PspPieceType.SOC_DRV: 0x19570, PspPieceType.INTF_DRV: 0x91A0, PspPieceType.DBG_DRV: 0xD060,
    PspPieceType.TOC: 0x900, PspPieceType.IPKEYMGR_DRV: 0x3230, PspPieceType.SPL: 0x340,
}  # fmt: skip
_CODE = {"mec": 0x41300, "pfp": 0x16400, "me": 0x30340}
_DATA = {11: 0x22000, 12: 0x40000}
_RAM = 0x10200
_RLC_G, _RLC_DRAM, _RLC_P, _RLC_V = 0x6200, 0x8200, 0x2200, 0x3200


class SyntheticFirmware:
    """A source of firmware files: any that an AMD card of ours asks for."""

    def read(self, path: str) -> bytes:
        """The file of that path in linux-firmware. Raises UsageError for one that is none."""
        name = path.removeprefix("amdgpu/").removesuffix(".bin").removesuffix("_kicker")
        words = name.split("_")
        generation = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
        match words[0], words[-1]:
            case "psp", "sos":
                return _psp(_PSP_13 if generation == 13 else _PSP_14)
            case "smu", _:
                return _smu(0x3FE00 if generation == 13 else 0x4FE00)
            case "sdma", _:
                return _sdma2() if generation == 6 else _sdma3()
            case "gc", ("mec" | "pfp" | "me") as engine:
                return _engine(_CODE[engine], _DATA[generation])
            case "gc", "imu":
                return _imu()
            case "gc", "rlc":
                return _rlc(generation)
            case _:
                raise UsageError(
                    f"there is no firmware file {path!r}",
                    cause="software cards have those of AMD cards of the generations 11 and 12",
                    next="exosuit list",
                    path=path,
                )


@dataclass(frozen=True)
class _Part:
    """A piece in a file: its size, and the header's slots for its place and size."""

    size: int
    offset_slot: str
    size_slot: str


def _fill(size: int) -> bytes:
    return (MARK * (size // len(MARK) + 1))[:size]


def _file(
    kind: type[CommonHeader], version: tuple[int, int], parts: list[_Part], **slots: Any
) -> bytes:
    """A file whose pieces follow its header one after the other; the first is the ucode."""
    data = bytearray(UCODE_OFFSET)
    places: dict[str, int] = {}
    for part in parts:
        places[part.offset_slot] = len(data)
        places[part.size_slot] = part.size
        data += _fill(part.size)
    kind(data).assign(
        size_bytes=len(data), header_size_bytes=kind.SIZE, header_major=version[0],
        header_minor=version[1], ucode_offset=UCODE_OFFSET,
        ucode_size_bytes=len(data) - UCODE_OFFSET,
    )  # fmt: skip
    kind(data).assign(**{k: v for k, v in {**places, **slots}.items() if k})
    return bytes(data)


def _psp(pieces: dict[PspPieceType, int]) -> bytes:
    sizes = [_Part(size, "", "") for size in pieces.values()]
    data = bytearray(_file(PspHeader, (2, 0), sizes, piece_count=len(pieces)))
    offset = 0
    for index, (kind, size) in enumerate(pieces.items()):
        piece = PspPiece(data, PspHeader.SIZE + index * PspPiece.SIZE)
        piece.assign(type=kind, offset=offset, size_bytes=size)
        offset += size
    return bytes(data)


def _smu(size: int) -> bytes:
    return _file(SmcHeader, (2, 1), [_Part(size, "", "ucode_size_bytes")])


def _sdma2() -> bytes:
    parts = [
        _Part(0x4400, "ucode_offset", "context_size"),
        _Part(0x4200, "control_offset", "control_size"),
    ]
    return _file(SdmaHeader2, (2, 0), parts)


def _sdma3() -> bytes:
    return _file(SdmaHeader3, (3, 0), [_Part(0xB700, "piece_offset", "piece_size")])


def _engine(code: int, data: int) -> bytes:
    parts = [_Part(code, "code_offset", "code_size"), _Part(data, "data_offset", "data_size")]
    start = {"start_low": START_ADDRESS & 0xFFFF_FFFF, "start_high": START_ADDRESS >> 32}
    return _file(GfxHeader2, (2, 0), parts, **start)


def _imu() -> bytes:
    parts = [_Part(_RAM, "", "iram_size"), _Part(_RAM, "", "dram_size")]
    return _file(ImuHeader, (1, 0), parts, iram_offset=0, dram_offset=_RAM)


def _rlc(generation: int) -> bytes:
    parts = [
        _Part(_RLC_G, "ucode_offset", "ucode_size_bytes"),
        _Part(_RAM, "iram_offset", "iram_size"),
        _Part(_RLC_DRAM, "dram_offset", "dram_size"),
    ]
    if generation == 11:
        parts.append(_Part(_RLC_P, "rlcp_offset", "rlcp_size"))
        parts.append(_Part(_RLC_V, "rlcv_offset", "rlcv_size"))
        return _file(RlcHeader23, (2, 3), parts)
    return _file(RlcHeader22, (2, 2), parts)
