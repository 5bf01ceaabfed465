"""Firmware files as linux-firmware carries them: headers, what the PSP calls each piece.

Every file begins with the common header; its version says what follows. Offsets are from the start
of the file unless said otherwise.

Sources: Linux `amdgpu_ucode.h`, `amdgpu_psp.h`, `psp_gfx_if.h` (enum psp_gfx_fw_type); contents of
a recent linux-firmware.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Struct, u16, u32
from exosuit.silicon.amd.psp import BootloaderCommand


class PieceType(IntEnum):
    """GFX_FW_TYPE_*: what LOAD_IP_FW loads."""

    RLC_V = 7
    RLC_G = 8
    SMU = 18
    RLC_P = 25
    RLC_IRAM = 26
    RLC_DRAM_BOOT = 48
    IMU_I = 68
    IMU_D = 69
    SDMA_TH0 = 71
    SDMA_TH1 = 72
    RS64_PFP = 87
    RS64_ME = 88
    RS64_MEC = 89
    RS64_PFP_P0_STACK = 90
    RS64_ME_P0_STACK = 92
    RS64_MEC_P0_STACK = 94


class CommonHeader(Struct):
    """The first 32 bytes of every file."""

    SIZE = 32
    size_bytes = u32("of the whole file")
    header_size_bytes = u32()
    header_major = u16()
    header_minor = u16()
    ip_major = u16()
    ip_minor = u16()
    ucode_version = u32()
    ucode_size_bytes = u32()
    ucode_offset = u32("of the ucode array")
    crc32 = u32()


class PspHeader(CommonHeader):
    """PSP, version 2.0: descriptors follow at 0x24."""

    SIZE = 0x24
    piece_count = u32()


class PspHeader21(PspHeader):
    """PSP, version 2.1: descriptors follow at 0x28."""

    SIZE = 0x28
    aux_index = u32()


class PspPiece(Struct):
    """One descriptor of a PSP file."""

    SIZE = 16
    type = u32("PspPieceType")
    version = u32()
    offset = u32("from the ucode array")
    size_bytes = u32()


class PspPieceType(IntEnum):
    SOS = 1
    SYS_DRV = 2
    KDB = 3
    TOC = 4
    SPL = 5
    RL = 6
    SOC_DRV = 7
    INTF_DRV = 8
    DBG_DRV = 9
    RAS_DRV = 10
    IPKEYMGR_DRV = 11


class SmcHeader(CommonHeader):
    """SMU, versions 1.0 to 2.1."""

    SIZE = 0x24
    start_address = u32()


class SdmaHeader2(CommonHeader):
    """SDMA 6, version 2.0."""

    SIZE = 0x40
    feature_version = u32()
    context_size = u32()
    context_jt_offset = u32()
    context_jt_size = u32()
    control_offset = u32()
    control_size = u32()
    control_jt_offset = u32()
    control_jt_size = u32()


class SdmaHeader3(CommonHeader):
    """SDMA 7, version 3.0."""

    SIZE = 0x2C
    feature_version = u32()
    piece_offset = u32()
    piece_size = u32()


class GfxHeader2(CommonHeader):
    """PFP, ME and MEC of the RS64 kind, version 2.0."""

    SIZE = 0x3C
    feature_version = u32()
    code_size = u32()
    code_offset = u32()
    data_size = u32()
    data_offset = u32()
    start_low = u32("byte address at which the engine starts")
    start_high = u32()


class ImuHeader(CommonHeader):
    """IMU, version 1.0: both pieces follow the ucode array's start, one after the other."""

    SIZE = 0x30
    iram_size = u32()
    iram_offset = u32()
    dram_size = u32()
    dram_offset = u32()


class RlcHeader22(CommonHeader):
    """RLC, version 2.2."""

    SIZE = 0xAC
    iram_size = u32(at=0x9C)
    iram_offset = u32()
    dram_size = u32()
    dram_offset = u32()


class RlcHeader23(RlcHeader22):
    """RLC, version 2.3."""

    SIZE = 0xCC
    rlcp_size = u32(at=0xB4)
    rlcp_offset = u32()
    rlcv_size = u32(at=0xC4)
    rlcv_offset = u32()


BOOTLOADER_ORDER: tuple[tuple[BootloaderCommand, PspPieceType], ...] = (
    (BootloaderCommand.LOAD_KEY_DATABASE, PspPieceType.KDB),
    (BootloaderCommand.LOAD_SPL, PspPieceType.SPL),
    (BootloaderCommand.LOAD_SYSDRV, PspPieceType.SYS_DRV),
    (BootloaderCommand.LOAD_SOCDRV, PspPieceType.SOC_DRV),
    (BootloaderCommand.LOAD_INTFDRV, PspPieceType.INTF_DRV),
    (BootloaderCommand.LOAD_DBGDRV, PspPieceType.DBG_DRV),
    (BootloaderCommand.LOAD_RASDRV, PspPieceType.RAS_DRV),
    (BootloaderCommand.LOAD_IPKEYMGRDRV, PspPieceType.IPKEYMGR_DRV),
    (BootloaderCommand.LOAD_SOSDRV, PspPieceType.SOS),
)
"""The boot loader's pieces in order; those that a file lacks are left out."""
SPL_IS_KDB = 13
"""Major PSP version whose LOAD_SPL takes the key database again, as Linux' psp_v13_0.c does."""
