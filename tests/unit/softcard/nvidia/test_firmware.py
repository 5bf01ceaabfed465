"""The VBIOS and the firmware files of software cards, read by our readers and by tinygrad's."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import pytest
from tinygrad.runtime.autogen import nv
from tinygrad.runtime.support import elf

from exosuit.errors import UsageError
from exosuit.silicon.nvidia.vbios import choose_signature, find_mapper, read_fwsec
from exosuit.softcard.nvidia import vbios
from exosuit.softcard.nvidia.firmware import FMC_BYTES, GSP_BYTES, SyntheticFirmware


def test_fwsec_is_found_in_the_vbios():
    rom = vbios.make_vbios(0x2204)
    found = read_fwsec(rom)
    assert found.image[: vbios.CODE_BYTES] == vbios.code()
    assert found.descriptor.ucode_id == vbios.UCODE_ID
    assert find_mapper(found) == vbios.MAPPER_AT
    assert choose_signature(found, vbios.FUSE_VERSION) == vbios.signature(vbios.FUSE_VERSION)


def sections(file: bytes) -> dict[str, bytes]:
    loader = cast("Any", elf)
    return {section.name: bytes(section.content) for section in loader.elf_loader(file)[1]}


def test_tinygrad_finds_the_sections_of_elf_files():
    files = SyntheticFirmware()
    found = sections(files.read("nvidia/ga102/gsp/gsp-570.144.bin"))
    assert len(found[".fwimage"]) == GSP_BYTES
    assert len(found[".fwsignature_ad10x"]) == 0x1000
    found = sections(files.read("nvidia/gb202/gsp/fmc-570.144.bin"))
    assert len(found["image"]) == FMC_BYTES
    assert found["hash"] == hashlib.sha384(found["image"]).digest()
    assert len(found["publickey"]) == 97
    assert len(found["signature"]) == 96


def test_the_booter_has_the_layout_of_signed_programs():
    file = SyntheticFirmware().read("nvidia/ad102/gsp/booter_load-570.144.bin")
    head: Any = nv.struct_nvfw_bin_hdr.from_buffer_copy(file)
    signed: Any = nv.struct_nvfw_hs_header_v2.from_buffer_copy(file, head.header_offset)
    assert head.bin_size == len(file) == head.data_offset + head.data_size
    count = int.from_bytes(file[signed.num_sig : signed.num_sig + 4], "little")
    assert signed.sig_prod_size == count * 384
    location = int.from_bytes(file[signed.patch_loc : signed.patch_loc + 4], "little")
    assert location + 384 <= head.data_size
    load: Any = nv.struct_nvfw_hs_load_header_v2.from_buffer_copy(file, signed.header_offset)
    assert load.os_data_offset + load.os_data_size == head.data_size
    assert location == load.os_data_offset + 0x10


@pytest.mark.parametrize(
    "path", ["nvidia/gb202/gsp/booter_load-570.144.bin", "nvidia/tu102/gsp/gsp-570.144.bin", "x"]
)
def test_other_files_are_not_there(path: str):
    with pytest.raises(UsageError):
        SyntheticFirmware().read(path)
