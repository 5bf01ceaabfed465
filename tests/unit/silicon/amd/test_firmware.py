"""Firmware headers against the structures of Linux as tinygrad has generated them."""

from __future__ import annotations

import pytest
import tinygrad.runtime.autogen.am.am as headers

from exosuit.silicon.amd import firmware

# Our structure, Linux' structure, then our slots with the names that Linux gives them.
SAME = """
CommonHeader struct_common_firmware_header
    ucode_offset=ucode_array_offset_bytes header_major=header_version_major
    header_minor=header_version_minor ip_major=ip_version_major ip_minor=ip_version_minor
PspHeader struct_psp_firmware_header_v2_0
    piece_count=psp_fw_bin_count
PspHeader21 struct_psp_firmware_header_v2_1
    piece_count=psp_fw_bin_count aux_index=psp_aux_fw_bin_index
SmcHeader struct_smc_firmware_header_v1_0
    start_address=ucode_start_addr
SdmaHeader2 struct_sdma_firmware_header_v2_0
    feature_version=ucode_feature_version context_size=ctx_ucode_size_bytes
    context_jt_offset=ctx_jt_offset context_jt_size=ctx_jt_size control_offset=ctl_ucode_offset
    control_size=ctl_ucode_size_bytes control_jt_offset=ctl_jt_offset
    control_jt_size=ctl_jt_size
SdmaHeader3 struct_sdma_firmware_header_v3_0
    feature_version=ucode_feature_version piece_offset=ucode_offset_bytes
    piece_size=ucode_size_bytes
GfxHeader2 struct_gfx_firmware_header_v2_0
    feature_version=ucode_feature_version code_size=ucode_size_bytes
    code_offset=ucode_offset_bytes data_size=data_size_bytes data_offset=data_offset_bytes
    start_low=ucode_start_addr_lo start_high=ucode_start_addr_hi
ImuHeader struct_imu_firmware_header_v1_0
    iram_size=imu_iram_ucode_size_bytes iram_offset=imu_iram_ucode_offset_bytes
    dram_size=imu_dram_ucode_size_bytes dram_offset=imu_dram_ucode_offset_bytes
RlcHeader22 struct_rlc_firmware_header_v2_2
    iram_size=rlc_iram_ucode_size_bytes iram_offset=rlc_iram_ucode_offset_bytes
    dram_size=rlc_dram_ucode_size_bytes dram_offset=rlc_dram_ucode_offset_bytes
RlcHeader23 struct_rlc_firmware_header_v2_3
    rlcp_size=rlcp_ucode_size_bytes rlcp_offset=rlcp_ucode_offset_bytes
    rlcv_size=rlcv_ucode_size_bytes rlcv_offset=rlcv_ucode_offset_bytes
"""


def same() -> dict[str, list[str]]:
    """Words after each of our structures."""
    found: dict[str, list[str]] = {}
    for line in SAME.strip().splitlines():
        first, *rest = line.split()
        if line.startswith(" "):
            list(found.values())[-1].extend([first, *rest])
        else:
            found[first] = rest
    return found


def all_offsets(kind, base: int = 0) -> dict[str, int]:
    """Offsets of a ctypes structure's fields, those of structures inside it included."""
    found: dict[str, int] = {}
    for name, field_type, *_ in (
        kind._real_fields_ if hasattr(kind, "_real_fields_") else kind._fields_
    ):
        offset = base + getattr(kind, name).offset
        if hasattr(field_type, "_fields_") or hasattr(field_type, "_real_fields_"):
            found = all_offsets(field_type, offset) | found
        found[name] = offset
    return found


@pytest.mark.parametrize("name", same())
def test_slots_lie_where_linux_has_them(name: str):
    ours = getattr(firmware, name)
    peer, *pairs = same()[name]
    names = dict(pair.split("=") for pair in pairs)
    own = {n: s for n, s in ours.SLOTS.items() if n in names or ours is firmware.CommonHeader}
    assert own
    offsets = all_offsets(getattr(headers, peer))
    for slot in own.values():
        assert offsets[names.get(slot.name, slot.name)] == slot.offset, slot.name


@pytest.mark.parametrize("piece", firmware.PieceType)
def test_piece_types_are_those_of_the_headers(piece):
    name = piece.name.replace("SDMA_", "SDMA_UCODE_")
    assert getattr(headers, f"GFX_FW_TYPE_{name}") == piece


@pytest.mark.parametrize("piece", firmware.PspPieceType)
def test_psp_pieces_are_those_of_the_headers(piece):
    assert getattr(headers, f"PSP_FW_TYPE_PSP_{piece.name}") == piece
