"""NVIDIA's firmware files as linux-firmware carries them: headers and section names.

`booter_load` and `bootloader` begin with nvfw_bin_hdr (behind that of the latter lies
`gsp.RiscvDescriptor`); the GSP image is a 64-bit ELF and the FMC a 32-bit one, of which only
sections are wanted.

Sources: open-gpu-kernel-modules 570.144 `nouveau/extract-firmware-nouveau.py`, `rmRiscvUcode.h`;
linux `include/nvfw/{fw,hs}.h`; offsets checked against tinygrad's generated structures.
"""

from __future__ import annotations

from exosuit.datasheet import Struct, u32

MAGIC = 0x10DE
IMAGE_SECTION = ".fwimage"
VERSION_SECTION = ".fwversion"
FMC_SECTIONS = ("image", "hash", "publickey", "signature")


class BinHeader(Struct):
    """nvfw_bin_hdr."""

    SIZE = 24
    magic = u32("0x10de")
    version = u32()
    size = u32("of the whole file")
    header_offset = u32()
    data_offset = u32()
    data_size = u32()


class HsHeader(Struct):
    """nvfw_hs_header_v2, of signed falcon code.

    `patch_location`, `patch_signature` and `signature_count` are where in the file the numbers are.
    """

    SIZE = 36
    signatures_offset = u32()
    signatures_size = u32()
    patch_location = u32()
    patch_signature = u32()
    meta_offset = u32()
    meta_size = u32()
    signature_count = u32()
    load_header_offset = u32()
    load_header_size = u32()


class LoadHeader(Struct):
    """nvfw_hs_load_header_v2; the apps follow."""

    SIZE = 20
    os_code_offset = u32()
    os_code_size = u32()
    os_data_offset = u32()
    os_data_size = u32()
    app_count = u32()


class LoadApp(Struct):
    SIZE = 16
    code_offset = u32()
    code_size = u32()
    data_offset = u32()
    data_size = u32()


class BooterParameters:
    """What SEC2's boot ROM is told of the booter, as its `patch_meta` says in 570.144."""

    PKC_OFFSET = 0x10
    """Of the signature in its data, as `patch_location` says."""
    ENGINE_MASK = 1
    UCODE_ID = 3
