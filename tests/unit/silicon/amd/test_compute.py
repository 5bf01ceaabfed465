"""COMPUTE registers and the queue descriptor, against the vendor's headers as tinygrad has them."""

from __future__ import annotations

import ctypes

import pytest
import tinygrad.runtime.autogen.am.am as headers
from tinygrad.runtime.autogen.am import regs

from exosuit.silicon.amd import code, compute
from exosuit.silicon.amd.compute import Compute, Compute12, sh_index
from exosuit.silicon.amd.hqd import Hqd
from exosuit.silicon.amd.mqd import Mqd

GC_BASE = 0x1260


@pytest.mark.parametrize(
    ("block", "name"), [(Compute, "gc_11_0_0"), (Compute, "gc_11_0_3"), (Compute12, "gc_12_0_0")]
)
def test_registers_lie_where_the_headers_say(block, name: str):
    table = getattr(regs, name)
    for register in block.REGISTERS.values():
        suffixes = ("_LO",) if register.kind.WIDTH == 64 else ("", "_0")
        names = [f"reg{register.name}{s}" for s in suffixes]
        if register.name == "COMPUTE_DISPATCH_PKT_ADDR":
            names = ["regCOMPUTE_DISPATCH_PKT_ADDR_LO"]
        found = next(table[n] for n in names if n in table)
        offset, segment, fields = found
        assert (register.offset // 4, register.segment) == (offset, segment), register.name
        for field, description in register.kind.FIELDS.items():
            if field in fields:
                assert (description.low, description.high) == fields[field], field


def test_packets_name_registers_by_their_distance():
    registers = Compute.REGISTERS
    assert sh_index(registers["COMPUTE_PGM"], GC_BASE) == 0x20C
    assert sh_index(registers["COMPUTE_PGM_RSRC1"], GC_BASE) == 0x212
    assert sh_index(registers["COMPUTE_PGM_RSRC3"], GC_BASE) == 0x228
    assert sh_index(registers["COMPUTE_USER_DATA"], GC_BASE) == 0x240
    assert sh_index(registers["COMPUTE_USER_DATA"], GC_BASE, 2) == 0x242
    assert sh_index(registers["COMPUTE_TMPRING_SIZE"], GC_BASE) == 0x218
    assert sh_index(registers["COMPUTE_RESTART_X"], GC_BASE) == 0x21B
    assert sh_index(registers["COMPUTE_START_X"], GC_BASE) == 0x204
    assert sh_index(registers["COMPUTE_DISPATCH_SCRATCH_BASE"], GC_BASE) == 0x210


def test_golden_words():
    assert compute.DispatchInitiator(0x8005).explain() == (
        "compute_shader_en=1 force_start_at_000=1 cs_w32_en=1"
    )
    assert compute.TmpringSize(waves=512, wavesize=32) == 0x20200
    assert code.Rsrc1(0xE0AF_0000).explain() == (
        "float_mode=0xf0 dx10_clamp=1 ieee_mode=1 wgp_mode=1 mem_ordered=1 fwd_progress=1"
    )
    assert int(code.KERNARG_WAVE32) == 0x408


def test_the_descriptor_mirrors_the_queue_registers():
    mqd = Mqd.make(header=0xC0310800, compute_static_thread_mgmt_se7=5)
    registers = mqd.registers
    registers.CP_HQD_PQ_BASE.write(0x20_0000_1234)
    registers.CP_HQD_PQ_CONTROL.write(queue_size=5)
    registers.CP_HQD_PQ_WPTR.write(0x1_0000_0002)
    words = memoryview(bytes(mqd)).cast("I")
    assert (words[0], words[47]) == (0xC0310800, 5)
    assert (words[136], words[137], words[145]) == (0x1234, 0x20, 5)
    assert (words[182], words[183]) == (2, 1)
    assert registers.CP_HQD_PQ_BASE.read() == 0x20_0000_1234
    pairs = dict(mqd.register_words())
    assert len(pairs) == 56
    assert pairs[Hqd.REGISTERS["CP_HQD_PQ_CONTROL"].offset] == 5


@pytest.mark.parametrize("name", ["struct_v11_compute_mqd", "struct_v12_compute_mqd"])
def test_the_descriptor_is_that_of_the_headers(name: str):
    peer = getattr(headers, name)
    assert ctypes.sizeof(peer) == Mqd.SIZE
    for slot in Mqd.SLOTS.values():
        assert getattr(peer, slot.name).offset == slot.offset, slot.name
    for register in Hqd.REGISTERS.values():
        dword = 0x80 + register.offset // 4 - 0x1FA9
        field = register.name.lower()
        for candidate in (field, f"{field}_lo", f"{field}_base_addr_lo"):
            if hasattr(peer, candidate):
                assert getattr(peer, candidate).offset == 4 * dword, field
