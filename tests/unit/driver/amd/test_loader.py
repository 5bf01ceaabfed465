"""The loader, against the code it is given: every reference checked from the other side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.check_device import mix, scalars

from exosuit.driver.amd.loader import load
from exosuit.errors import KernelError
from exosuit.kernel import Target, compile_kernel
from exosuit.silicon.amd.code import CODE_ALIGNMENT, KernelDescriptor

import llvmlite.binding as llvm  # isort: skip

TABLE = """
target triple = "amdgcn-amd-amdhsa"
@table = internal constant [4 x i32] [i32 11, i32 22, i32 33, i32 44]
{extra}
define amdgpu_kernel void @looks(ptr addrspace(1) %out, i32 %which) {attributes} {{
  %slot = getelementptr [4 x i32], ptr addrspace(4) {table}, i32 0, i32 %which
  %value = load i32, ptr addrspace(4) %slot
  store i32 %value, ptr addrspace(1) %out
  ret void
}}
"""


@pytest.fixture(scope="module")
def programs():
    return {
        name: compile_kernel(mix, Target.named(name))
        for name in ("gfx1100", "gfx1101", "gfx1102", "gfx1200", "gfx1201")
    }


def assemble(text: str, cpu: str = "gfx1100") -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("amdgcn-amd-amdhsa")
    machine = target.create_target_machine(cpu=cpu, opt=2, reloc="pic")
    return machine.emit_object(llvm.parse_assembly(text))


@pytest.mark.parametrize("name", ["gfx1100", "gfx1101", "gfx1102", "gfx1200", "gfx1201"])
def test_programs_of_every_chip(programs, name: str):
    program = programs[name]
    image = load(program.code, program.entry, name)
    assert image.entry_offset % CODE_ALIGNMENT == 0
    assert image.descriptor.properties == 0x408
    assert image.descriptor.rsrc1.float_mode == 0xF0
    assert image.descriptor.kernarg_bytes == 16
    assert image.descriptor.rsrc2.tgid_x_en
    # The code stands where the entry points to: it ends a wave somewhere (s_endpgm).
    words = memoryview(image.bytes[image.entry_offset :]).cast("I")
    assert 0xBFB00000 in words
    assert image.bytes[-256:] == bytes(256)


def test_a_program_for_another_chip_is_refused(programs):
    with pytest.raises(KernelError, match="it is for gfx1101, and this card is gfx1100"):
        load(programs["gfx1101"].code, programs["gfx1101"].entry, "gfx1100")


def test_the_entry_is_reached_through_its_relocated_descriptor(programs):
    program = compile_kernel(scalars, Target.named("gfx1100"))
    image = load(program.code, program.entry)
    at = image.bytes.index(bytes(image.descriptor))
    assert at + KernelDescriptor(image.bytes, at).entry_offset == image.entry_offset


def test_constant_tables_are_found():
    code = assemble(
        TABLE.format(
            extra="@far = internal addrspace(4) constant [4 x i32] [i32 5, i32 6, i32 7, i32 8]",
            table="@far",
            attributes='"amdgpu-no-implicitarg-ptr" "amdgpu-no-dispatch-ptr"'
            ' "amdgpu-no-queue-ptr" "amdgpu-no-dispatch-id"',
        )
    )  # fmt: skip
    image = load(code, "looks")
    words = memoryview(image.bytes[image.entry_offset : image.entry_offset + 256]).cast("I")
    # s_getpc_b64 is followed by s_add_u32 with a literal, relative to after the getpc.
    getpc = next(i for i, w in enumerate(words) if w & 0xFF80FF00 == 0xBE804700)
    add = next(i for i in range(getpc + 1, getpc + 8) if words[i] & 0xFF800000 == 0x80000000)
    distance = words[add + 1]
    target = image.entry_offset + 4 * (getpc + 1) + distance
    assert memoryview(image.bytes[target : target + 16]).cast("I").tolist() == [5, 6, 7, 8]


def test_an_undefined_symbol_is_refused():
    code = assemble(
        TABLE.format(extra="@far = external addrspace(4) constant [4 x i32]", table="@far",
                     attributes="")
    )  # fmt: skip
    with pytest.raises(KernelError, match="'far' is not defined"):
        load(code, "looks")


def test_a_program_that_wants_more_is_refused():
    code = assemble("""
        target triple = "amdgcn-amd-amdhsa"
        declare ptr addrspace(4) @llvm.amdgcn.dispatch.ptr()
        define amdgpu_kernel void @wants(ptr addrspace(1) %out) {
          %p = call ptr addrspace(4) @llvm.amdgcn.dispatch.ptr()
          %v = load i32, ptr addrspace(4) %p
          store i32 %v, ptr addrspace(1) %out
          ret void
        }""")
    with pytest.raises(KernelError, match="dispatch_ptr"):
        load(code, "wants")


def test_a_name_that_is_not_there(programs):
    with pytest.raises(KernelError, match=r"no symbol 'absent\.kd'"):
        load(programs["gfx1100"].code, "absent")


@pytest.mark.parametrize("code", [b"", b"\x7fELF", bytes(64), b"\x7fELF\x02\x01\x01" + bytes(57)])
def test_what_is_no_object(code: bytes):
    with pytest.raises(KernelError):
        load(code, "mix")


@given(st.data())
def test_a_damaged_object_is_refused_or_loads(programs, data):
    """Never another exception, however it is damaged."""
    program = programs["gfx1100"]
    code = bytearray(program.code)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(0, 63), st.integers(0, len(code) - 1)))
        code[place] = data.draw(st.integers(0, 255))
    code = code[: data.draw(st.one_of(st.just(len(code)), st.integers(0, len(code))))]
    try:
        image = load(bytes(code), program.entry)
    except KernelError:
        return
    assert len(image.bytes) < 1 << 27
