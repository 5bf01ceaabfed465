"""Code objects: the ELF that a compiler for AMD emits, and the kernel descriptor inside it.

Sources: LLVM's AMDGPU usage guide (ELF header, relocation records, kernel descriptor, code
object V6), the ELF-64 object file format. Checked against objects of LLVM 22.
"""

from __future__ import annotations

from enum import IntEnum

from exosuit.datasheet import Struct, Word, bits, data, flag, i64, u8, u16, u32, u64, word

MAGIC = b"\x7fELF\x02\x01\x01"
"""64-bit, little-endian, version 1."""
OS_ABI_HSA = 64
MACHINE_AMDGPU = 224
RELOCATABLE = 1
SECTION_ALLOCATED = 2
UNDEFINED_SECTION = 0
FIRST_RESERVED_SECTION = 0xFF00

MACHINES = {
    0x41: "gfx1100",
    0x44: "gfx1103",
    0x46: "gfx1101",
    0x47: "gfx1102",
    0x48: "gfx1200",
    0x4E: "gfx1201",
}
"""EF_AMDGPU_MACH, in the low byte of `flags`."""

CODE_ALIGNMENT = 256
"""Programs start at multiples of it: registers hold their address >> 8."""
PREFETCH_BYTES = 256
"""Instruction fetch runs ahead by so much; it must find readable memory."""
LDS_GRANULE = 512
"""Unit of `Rsrc2.lds_size` in bytes."""


class SectionType(IntEnum):
    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8


class Relocation(IntEnum):
    """R_AMDGPU_*: those that code without a linker holds. S symbol, A addend, P place."""

    REL64 = 5  # S + A - P
    REL32_LO = 10  # low half of S + A - P
    REL32_HI = 11  # high half of S + A - P


class ElfHeader(Struct):
    SIZE = 64
    magic = data(7)
    os_abi = u8()
    abi_version = u8("3 is code object V5, 4 is V6")
    type = u16(at=16)
    machine = u16()
    version = u32()
    entry = u64()
    program_headers = u64()
    section_headers = u64("offset in the file")
    flags = u32()
    header_size = u16()
    program_header_size = u16()
    program_header_count = u16()
    section_header_size = u16()
    section_count = u16()
    section_names = u16()


class Section(Struct):
    SIZE = 64
    name = u32()
    type = u32()
    flags = u64()
    address = u64()
    offset = u64("in the file")
    size = u64()
    link = u32()
    info = u32("of a RELA section: the section that it changes")
    alignment = u64()
    entry_size = u64()


class Symbol(Struct):
    SIZE = 24
    name = u32("offset in the string table")
    info = u8()
    other = u8()
    section = u16()
    value = u64("offset in its section")
    size = u64()


class RelocationEntry(Struct):
    SIZE = 24
    offset = u64("in the section that is changed")
    type = u32()
    symbol = u32()
    addend = i64()


class Rsrc1(Word):
    """COMPUTE_PGM_RSRC1, gfx11."""

    vgprs = bits(5, 0, "granules of 8 (wave32), less one")
    sgprs = bits(9, 6, "0: every wave has all of them")
    priority = bits(11, 10)
    float_mode = bits(19, 12, "0xF0: denormals kept, round to nearest even")
    priv = flag(20)
    dx10_clamp = flag(21)
    debug_mode = flag(22)
    ieee_mode = flag(23)
    bulky = flag(24)
    cdbg_user = flag(25)
    fp16_ovfl = flag(26)
    wgp_mode = flag(29)
    mem_ordered = flag(30)
    fwd_progress = flag(31)


class Rsrc1Gfx12(Rsrc1):
    dx10_clamp = None
    wg_rr_en = flag(21)
    ieee_mode = None
    disable_perf = flag(23)


class Rsrc2(Word):
    """COMPUTE_PGM_RSRC2."""

    scratch_en = flag(0)
    user_sgpr = bits(5, 1, "scalar registers filled from USER_DATA")
    trap_present = flag(6)
    tgid_x_en = flag(7)
    tgid_y_en = flag(8)
    tgid_z_en = flag(9)
    tg_size_en = flag(10)
    tidig_comp_cnt = bits(12, 11, "dimensions in v0, less one")
    excp_en_msb = bits(14, 13)
    lds_size = bits(23, 15, "in LDS_GRANULE; 0 as compiled")
    excp_en = bits(30, 24)


class Rsrc3(Word):
    """COMPUTE_PGM_RSRC3, gfx11."""

    shared_vgpr_cnt = bits(3, 0)
    inst_pref_size = bits(9, 4)
    trap_on_start = flag(10)
    trap_on_end = flag(11)
    image_op = flag(31)


class Rsrc3Gfx12(Rsrc3):
    shared_vgpr_cnt = None
    inst_pref_size = bits(11, 4)
    trap_on_start = None
    trap_on_end = None
    glg_en = flag(13)


class CodeProperties(Word):
    """What a program expects in its first scalar registers."""

    WIDTH = 16
    private_segment_buffer = flag(0)
    dispatch_ptr = flag(1)
    queue_ptr = flag(2)
    kernarg_segment_ptr = flag(3)
    dispatch_id = flag(4)
    flat_scratch_init = flag(5)
    private_segment_size = flag(6)
    wavefront_size32 = flag(10)
    uses_dynamic_stack = flag(11)


KERNARG_WAVE32 = CodeProperties(kernarg_segment_ptr=True, wavefront_size32=True)
"""The only properties that our launches serve: 0x408."""


class KernelDescriptor(Struct):
    """`NAME.kd`: what a launch must know of a program."""

    SIZE = 64
    group_segment_bytes = u32("workgroup memory (LDS)")
    private_segment_bytes = u32("scratch of one lane")
    kernarg_bytes = u32()
    entry_offset = i64("of the code, from this descriptor", at=16)
    rsrc3 = word(Rsrc3, at=44)
    rsrc1 = word(Rsrc1)
    rsrc2 = word(Rsrc2)
    properties = word(CodeProperties)
    kernarg_preload = u16()
