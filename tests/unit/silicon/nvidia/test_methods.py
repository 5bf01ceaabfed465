"""Methods and their fields against the vendor's headers; pushbuffers against tinygrad's words."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.silicon.nvidia.vendor_headers import header, table

from exosuit.datasheet import Block, Word
from exosuit.errors import UnsupportedCard
from exosuit.silicon.nvidia import classes
from exosuit.silicon.nvidia.channel import Userd
from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.copy import Copy, LaunchDma, RemapComponents, RemapSource, Transfer
from exosuit.silicon.nvidia.limits import (
    limits,
    local_bytes,
    local_tpc_bytes,
    most_lanes,
    sass_version,
    sm_of,
)
from exosuit.silicon.nvidia.push import (
    COMPUTE,
    COPY,
    HOST,
    GpEntry,
    Host,
    Malformed,
    MethodHeader,
    MethodWrite,
    Opcode,
    SemaphoreOperation,
    SemExecute,
    entry,
    methods,
    read_methods,
    wide,
)

# Fields that Hopper made wider, with their class there.
WIDER = {"SEM_ADDR_HI": "NVC86F"}
# Ours is wider than the oldest class: 25 bits from Hopper on (clc8b5.h, clcbc0.h), 17 here.
WIDE_UPPERS = {
    "SET_SEMAPHORE_A", "OFFSET_IN_UPPER", "OFFSET_OUT_UPPER", "SET_SHADER_LOCAL_MEMORY_A",
}  # fmt: skip
# Not in Ampere's header: from Hopper on only.
NEWER = {
    "SET_SEMAPHORE_PAYLOAD_UPPER", "SET_INLINE_QMD_ADDRESS_A",
    "LAUNCH_DMA_SEMAPHORE_PAYLOAD_SIZE",  # 27:27 of clc7b5.h
}  # fmt: skip


@pytest.mark.parametrize(
    ("block", "prefix"), [(Host, "NVC56F"), (Compute, "NVC6C0"), (Copy, "NVC6B5")]
)
def test_methods_are_the_vendors(block: type[Block], prefix: str):
    compared = 0
    for name, description in block.REGISTERS.items():
        if name in NEWER or name == "SET_OBJECT":
            continue
        vendor = table(WIDER.get(name, prefix))
        assert vendor[name] == description.offset, name
        if name in WIDE_UPPERS:
            continue
        compared += check_fields(description.kind, name, vendor)
    assert compared > 10
    assert block.REGISTERS["SET_OBJECT"].offset == table("NVC56F")["SET_OBJECT"]


def check_fields(kind: type[Word], method: str, vendor: dict[str, Any]) -> int:
    for name, field in kind.FIELDS.items():
        full = f"{method}_{name.upper()}"
        if full in NEWER:
            continue
        assert vendor[full] == (field.high, field.low), full
        if field.convert not in (None, bool):
            for value in field.convert:
                assert vendor[f"{full}_{value.name}"] == value, f"{full}_{value.name}"
    return len(kind.FIELDS)


def test_entries_and_headers_are_the_vendors():
    vendor = table("NVC56F")
    for name, high, low in (
        ("GP_ENTRY0_GET", 31, 2), ("GP_ENTRY1_LEVEL", 9, 9), ("GP_ENTRY1_LENGTH", 30, 10),
        ("GP_ENTRY1_SYNC", 31, 31), ("GP_ENTRY1_GET_HI", 7, 0),
    ):  # fmt: skip
        assert vendor[name] == (high, low)
    assert (GpEntry.level.low, GpEntry.length.low, GpEntry.length.high) == (41, 42, 62)
    assert (GpEntry.sync.low, GpEntry.get.low, GpEntry.get.high) == (63, 2, 39)
    for name in ("METHOD_ADDRESS", "METHOD_SUBCHANNEL", "METHOD_COUNT", "SEC_OP"):
        ours = {
            "METHOD_ADDRESS": MethodHeader.method, "METHOD_SUBCHANNEL": MethodHeader.subchannel,
            "METHOD_COUNT": MethodHeader.count, "SEC_OP": MethodHeader.opcode,
        }[name]  # fmt: skip
        assert vendor[f"DMA_{name}"] == (ours.high, ours.low)


def test_entries_as_tinygrad_writes_them():
    for address, dwords in ((0x10_0000_1000, 9), (0xFF_FFFF_FFFC, 1), (4, (1 << 21) - 1)):
        assert entry(address, 4 * dwords) == (address // 4 << 2) | dwords << 42 | 1 << 41


def test_headers_as_tinygrad_writes_them():
    """`nvm`: opcode 2 << 28 is what the vendor's table calls 1 << 29."""
    for subchannel, method, values in (
        (COMPUTE, Compute.SEND_PCAS_A, (0x1234,)),
        (COPY, Copy.OFFSET_IN_UPPER, (1, 2, 3, 4)),
        (HOST, Host.SEM_ADDR_LO, (5, 6, 7, 8, 9)),
    ):
        offset = method.description.offset
        header = 2 << 28 | len(values) << 16 | subchannel << 13 | offset >> 2
        expected = struct.pack(f"<{1 + len(values)}I", header, *values)
        assert methods(subchannel, method, *values) == expected
        writes = [MethodWrite(subchannel, offset + 4 * k, v) for k, v in enumerate(values)]
        assert list(read_methods(expected)) == writes


@given(st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, 2**32 - 1), max_size=5))))
def test_what_is_written_is_read(packets: list[tuple[int, list[int]]]):
    data = b"".join(methods(sub, Copy.OFFSET_IN_UPPER, *values) for sub, values in packets)
    expected = [
        MethodWrite(sub, 0x400 + 4 * k, value)
        for sub, values in packets
        for k, value in enumerate(values)
    ]
    assert list(read_methods(data)) == expected


def test_every_form_of_packet():
    words = [
        0,  # nothing
        MethodHeader(opcode=Opcode.IMMEDIATE, count=0x1011, subchannel=1, method=0x1698 >> 2),
        MethodHeader(opcode=Opcode.CONSTANT, count=2, subchannel=1, method=0x1B4 >> 2), 7, 8,
        MethodHeader(opcode=Opcode.INCREMENT_ONCE, count=3, subchannel=1, method=0x1B0 >> 2),
        0x41, 1, 2,
        MethodHeader(opcode=Opcode.INCREMENT, count=0, subchannel=1, method=1),
        MethodHeader(opcode=Opcode.END), 0xFFFF_FFFF,
    ]  # fmt: skip
    found = [(w.method, w.value) for w in read_methods(struct.pack(f"<{len(words)}I", *words))]
    assert found == [
        (0x1698, 0x1011), (0x1B4, 7), (0x1B4, 8), (0x1B0, 0x41), (0x1B4, 1), (0x1B4, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("words", [[6 << 29], [2 << 29], [1], [1 << 29 | 3 << 16, 1, 2]])
def test_what_no_channel_accepts(words: list[int]):
    with pytest.raises(Malformed) as caught:
        list(read_methods(struct.pack(f"<{len(words)}I", *words)))
    assert caught.value.offset == 0


def test_words_as_documented():
    """nvidia.md, sections 3.3 and 6."""
    release = SemaphoreOperation.RELEASE
    assert SemExecute(operation=release, release_wfi=True) == 0x0010_0001
    assert SemExecute(operation=SemaphoreOperation.ACQ_CIRC_GEQ, payload_size=True) == 0x0100_0003
    wide_release = SemExecute(
        operation=release, release_wfi=True, payload_size=True, release_timestamp=True
    )
    assert wide_release == 0x0310_0001
    plain = LaunchDma(
        data_transfer_type=Transfer.NON_PIPELINED, src_memory_layout=True, dst_memory_layout=True
    )
    assert plain == 0x182
    assert RemapComponents(dst_x=RemapSource.CONST_A, component_size=3) == 0x3_0004
    assert wide(0x7293_0000_0004) == (0x7293, 4)


def test_userd_is_the_vendors():
    control = header().Nvc56fControl
    fields = {name for name, *_ in control._fields_} if hasattr(control, "_fields_") else set()
    if not fields:
        pytest.skip("tinygrad's table has no layout of USERD")
    for ours, theirs in (("gp_get", "GPGet"), ("gp_put", "GPPut"), ("put", "Put")):
        assert getattr(control, theirs).offset == Userd.SLOTS[ours].offset
    assert ctypes.sizeof(control) == Userd.SIZE


# Classes and limits ---------------------------------------------------------------------------

VENDOR_CLASSES = {
    classes.GpfifoClass: "{}_CHANNEL_GPFIFO_{}",
    classes.ComputeClass: "{}_COMPUTE_{}",
    classes.CopyClass: "{}_DMA_COPY_{}",
    classes.UsermodeClass: "{}_USERMODE_{}",
}


def test_classes_are_the_vendors():
    for role, pattern in VENDOR_CLASSES.items():
        for kind in role:
            chip, letter = kind.name.rsplit("_", 1)
            assert getattr(header(), pattern.format(chip, letter)) == kind, kind
    for name, value in (
        ("KEPLER_CHANNEL_GROUP_A", classes.ObjectClass.CHANNEL_GROUP),
        ("FERMI_CONTEXT_SHARE_A", classes.ObjectClass.CONTEXT_SHARE),
        ("FERMI_VASPACE_A", classes.ObjectClass.VA_SPACE),
        ("GT200_DEBUGGER", classes.ObjectClass.DEBUGGER),
        ("NV20_SUBDEVICE_0", classes.ObjectClass.SUBDEVICE),
        ("NV01_DEVICE_0", classes.ObjectClass.DEVICE),
        ("NV1_MEMORY_USER", classes.ObjectClass.MEMORY_LOCAL),
        ("NV1_MEMORY_SYSTEM", classes.ObjectClass.MEMORY_SYSTEM),
        ("NV01_MEMORY_SYSTEM_OS_DESCRIPTOR", classes.ObjectClass.MEMORY_OS_DESCRIPTOR),
    ):
        assert getattr(header(), name) == value, name


def test_the_newest_known_class_is_taken():
    gb202 = [0xC56F, 0xC86F, 0xC96F, 0xCA6F, 0xCEC0, 0xCAB5, 0xC361, 0xC761, 0xB2CC]
    assert classes.newest(classes.GpfifoClass, gb202) == 0xCA6F
    assert classes.newest(classes.ComputeClass, gb202) == 0xCEC0
    assert classes.newest(classes.UsermodeClass, gb202) == 0xC761
    gh100 = [0xC56F, 0xC86F, 0xCBC0, 0xC8B5, 0xFFFF]
    assert classes.newest(classes.GpfifoClass, gh100) == 0xC86F
    assert classes.newest(classes.CopyClass, gh100) == 0xC8B5
    with pytest.raises(UnsupportedCard, match="compute") as caught:
        classes.newest(classes.ComputeClass, [0xC5C0])
    assert "0xc5c0" in caught.value.cause


def test_versions_and_limits():
    assert [sm_of(v) for v in (0x806, 0x809, 0x900, 0xA04, 0xC00, 0x999)] == [
        86, 89, 90, 120, 120, None,
    ]  # fmt: skip
    assert [sass_version(v) for v in (0x806, 0x809, 0x900, 0xA04)] == [0x86, 0x89, 0x90, 0xA4]
    assert limits(86).most_shared == 100 << 10
    assert limits(90).most_shared == 228 << 10
    assert limits(88).warps == limits(87).warps
    # 65,536 registers: tinygrad's rule, in numbers that can be counted on paper.
    assert [most_lanes(r) for r in (0, 32, 64, 65, 128, 168, 255)] == [
        1024, 1024, 1024, 896, 512, 384, 256,
    ]  # fmt: skip


def test_scratch_of_a_4090():
    """0x260 bytes of a lane, 48 warps, 2 SMs, 6 TPCs, 12 GPCs: tinygrad's arithmetic."""
    tpc = -(-(0x260 * 32 + 0x1FF & ~0x1FF) * 48 * 2 // 0x8000) * 0x8000
    assert local_tpc_bytes(0x260, 48, 2) == tpc == 0x1C8000
    assert local_bytes(tpc, 6, 12) == -(-tpc * 72 // 0x20000) * 0x20000
