"""PM4 and SDMA packets: golden streams of a hardware-proven driver, and its headers as a peer."""

from __future__ import annotations

import struct

import pytest
import tinygrad.runtime.autogen.am.pm4_nv as pm4_headers
import tinygrad.runtime.autogen.am.sdma_6_0_0 as sdma_headers

from exosuit.datasheet import UnknownPacket
from exosuit.silicon.amd import pm4, sdma

SIGNAL, VALUE = 0x1234_5678_9ABC, 7


def words(*packets: pm4.Pm4 | sdma.Sdma) -> list[int]:
    data = b"".join(bytes(packet) for packet in packets)
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def dwords(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


LOW, HIGH = f"{SIGNAL & 0xFFFFFFFF:x}", f"{SIGNAL >> 32:x}"
GOLDEN_PM4 = [
    (
        pm4.WaitRegMem.build(
            control=pm4.WaitControl(function=pm4.Compare.GREATER_EQUAL, mem_space=True),
            address=SIGNAL, reference=3, mask=0xFFFFFFFF, interval=4,
        ),
        f"C0053C00 15 {LOW} {HIGH} 3 FFFFFFFF 4",
    ),
    (
        pm4.WaitRegMem.build(
            control=pm4.WaitControl(
                function=pm4.Compare.GREATER_EQUAL, operation=pm4.WaitOperation.WRITE_THEN_WAIT
            ),
            address=pm4.HDP_FLUSH_REQUEST | pm4.HDP_FLUSH_DONE << 32,
            reference=0xFFFFFFFF, mask=0xFFFFFFFF, interval=4,
        ),
        "C0053C00 45 E26 E27 FFFFFFFF FFFFFFFF 4",
    ),
    (
        pm4.AcquireMem.build(size_low=0xFFFFFFFF, size_high=0xFFFFFFFF, caches=pm4.ALL_CACHES),
        "C0065800 0 FFFFFFFF FFFFFFFF 0 0 0 C3F1",
    ),
    (
        pm4.AcquireMem.build(size_low=0xFFFFFFFF, size_high=0xFFFFFFFF, caches=pm4.SHADER_CACHES),
        "C0065800 0 FFFFFFFF FFFFFFFF 0 0 0 3F0",
    ),
    (
        pm4.SetShReg.build(struct.pack("<II", 0xAA, 0xBB), register=0x20C),
        "C0027600 20C AA BB",
    ),
    (
        pm4.DispatchDirect.build(
            x=5, y=6, z=7,
            initiator=pm4.DispatchInitiator(compute_shader_en=True, force_start_at_000=True,
                                            cs_w32_en=True),
        ),
        "C0031500 5 6 7 8005",
    ),
    (pm4.EventWrite.build(event=pm4.PARTIAL_FLUSH), "C0004600 407"),
    (
        pm4.ReleaseMem.build(
            control=pm4.RELEASE_ALL,
            destination=pm4.ReleaseDestination(data_sel=pm4.ReleaseDatum.LOW_32),
            address=SIGNAL, value=VALUE,
        ),
        f"C0064900 70F514 20000000 {LOW} {HIGH} 7 0 0",
    ),
    (
        pm4.ReleaseMem.build(
            control=pm4.ReleaseControl(
                event_type=pm4.Event.CACHE_FLUSH_AND_INV_TS,
                event_index=pm4.EventIndex.END_OF_PIPE,
            ),
            destination=pm4.ReleaseDestination(data_sel=pm4.ReleaseDatum.GPU_CLOCK),
            address=SIGNAL,
        ),
        f"C0064900 514 60000000 {LOW} {HIGH} 0 0 0",
    ),
]  # fmt: skip

GOLDEN_SDMA = [
    (
        sdma.PollRegMem.build(
            header=sdma.Header(
                sdma.PollHeader(op=sdma.Opcode.POLL_REGMEM, func=5, mem_poll=True)
            ),
            address=SIGNAL, reference=3, mask=0xFFFFFFFF,
            retry=sdma.PollRetry(interval=4, retry_count=0xFFF),
        ),
        f"D0000008 {LOW} {HIGH} 3 FFFFFFFF 0FFF0004",
    ),
    (
        sdma.CopyLinear.build(count=sdma.CopyCount(count=4095), source=SIGNAL, target=SIGNAL + 1),
        f"1 FFF 0 {LOW} {HIGH} {(SIGNAL + 1) & 0xFFFFFFFF:x} {HIGH}",
    ),
    (sdma.Fence.build(target=SIGNAL, value=7), f"00030005 {LOW} {HIGH} 7"),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "golden"), GOLDEN_PM4 + GOLDEN_SDMA)
def test_golden_words(packet, golden: str):
    assert words(packet) == dwords(golden)


@pytest.mark.parametrize("family", [(pm4.Pm4, GOLDEN_PM4), (sdma.Sdma, GOLDEN_SDMA)])
def test_a_stream_comes_apart_again(family):
    kind, golden = family
    stream = b"".join(bytes(packet) for packet, _ in golden)
    found = list(kind.parse(stream))
    assert [type(packet) for packet in found] == [type(packet) for packet, _ in golden]
    assert b"".join(bytes(packet) for packet in found) == stream


def test_fillers_and_what_nobody_knows():
    stream = struct.pack("<5I", pm4.FILLER, 0xC0017700, 1, 2, pm4.FILLER)
    first, second, third = pm4.Pm4.parse(stream)
    assert isinstance(first, pm4.Nop)
    assert isinstance(third, pm4.Nop)
    assert isinstance(second, UnknownPacket)
    assert (second.opcode, len(second.data)) == (0x77, 12)
    zeros = list(sdma.Sdma.parse(bytes(12)))
    assert [type(packet) for packet in zeros] == [sdma.Nop] * 3
    skipped = sdma.Nop.build(bytes(8))
    assert words(skipped) == [2 << 16, 0, 0]
    written = sdma.WriteLinear.build(
        struct.pack("<II", 1, 2), target=SIGNAL, count=sdma.WriteCount(count=1)
    )
    assert [type(p) for p in sdma.Sdma.parse(bytes(written))] == [sdma.WriteLinear]
    cut = list(sdma.Sdma.parse(bytes(written)[:8]))
    assert isinstance(cut[0], UnknownPacket)
    assert cut[0].opcode is None


def test_opcodes_are_those_of_the_headers():
    for opcode in pm4.Opcode:
        name = "EVENT_WRITE" if opcode.name == "EVENT_WRITE" else opcode.name
        assert getattr(pm4_headers, f"PACKET3_{name}") == opcode
    assert pm4_headers.PACKET3_SET_SH_REG_START == pm4.SH_WINDOW
    assert pm4_headers.PACKET3_SET_UCONFIG_REG_START == pm4.UCONFIG_WINDOW
    names = {"COPY_LINEAR": "COPY", "WRITE_LINEAR": "WRITE", "TIMESTAMP_GLOBAL": "TIMESTAMP"}
    for code in sdma.Opcode:
        known = getattr(sdma_headers, f"SDMA_OP_{names.get(code.name, code.name)}")
        assert known == code & 0xFF
    assert sdma.Opcode.TIMESTAMP_GLOBAL >> 8 == sdma_headers.SDMA_SUBOP_TIMESTAMP_GET_GLOBAL


@pytest.mark.parametrize("field", [f for f in pm4.CacheControl.FIELDS if f != "range_is_pa"])
def test_cache_control_is_that_of_the_headers(field: str):
    place = getattr(pm4_headers, f"PACKET3_ACQUIRE_MEM_GCR_CNTL_{field.upper()}")
    assert place(1) == pm4.CacheControl(**{field: 1})


@pytest.mark.parametrize(
    "field", [f for f in pm4.ReleaseControl.FIELDS if f.startswith(("gl", "seq"))]
)
def test_release_control_is_that_of_the_headers(field: str):
    place = getattr(pm4_headers, f"PACKET3_RELEASE_MEM_GCR_{field.upper()}")
    value = place if isinstance(place, int) else place(1)
    assert value == pm4.ReleaseControl(**{field: 1})


FIELDS = [
    (sdma.PollHeader, "func", "POLL_REGMEM_HEADER_func"),
    (sdma.PollHeader, "mem_poll", "POLL_REGMEM_HEADER_mem_poll"),
    (sdma.PollHeader, "hdp_flush", "POLL_REGMEM_HEADER_hdp_flush"),
    (sdma.PollRetry, "interval", "POLL_REGMEM_DW5_interval"),
    (sdma.PollRetry, "retry_count", "POLL_REGMEM_DW5_retry_count"),
    (sdma.FenceHeader, "mtype", "FENCE_HEADER_mtype"),
    (sdma.FenceHeader, "gcc", "FENCE_HEADER_gcc"),
    (sdma.FenceHeader, "sys", "FENCE_HEADER_sys"),
    (sdma.FenceHeader, "snp", "FENCE_HEADER_snp"),
    (sdma.FenceHeader, "gpa", "FENCE_HEADER_gpa"),
    (sdma.FenceHeader, "l2_policy", "FENCE_HEADER_l2_policy"),
    (sdma.IndirectHeader, "vmid", "INDIRECT_HEADER_vmid"),
    (sdma.IndirectHeader, "priv", "INDIRECT_HEADER_priv"),
    (sdma.IndirectSize, "size", "INDIRECT_IB_SIZE_ib_size"),
    (sdma.CopyCount, "count", "COPY_LINEAR_COUNT_count"),
    (sdma.WriteCount, "count", "WRITE_UNTILED_DW_3_count"),
    (sdma.FillHeader, "fillsize", "CONSTANT_FILL_HEADER_fillsize"),
    (sdma.NopHeader, "count", "NOP_HEADER_count"),
    (sdma.SrbmHeader, "byte_en", "SRBM_WRITE_HEADER_byte_en"),
]


@pytest.mark.parametrize(("word", "field", "name"), FIELDS)
def test_sdma_fields_are_those_of_the_headers(word, field: str, name: str):
    known = word.FIELDS[field]
    assert known.low == getattr(sdma_headers, f"SDMA_PKT_{name}_shift")
    assert known.maximum == getattr(sdma_headers, f"SDMA_PKT_{name}_mask")
