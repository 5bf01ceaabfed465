"""QMDs: every field against the vendor's headers, whole descriptors against tinygrad's encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.silicon.nvidia.vendor_headers import QMDV04_00, header, table

from exosuit.silicon.nvidia.grid import Bank, Grid, Release, StructureSize
from exosuit.silicon.nvidia.qmd import Qmd, Qmd3, Qmd4, Qmd5, layout
from exosuit.silicon.nvidia.qmd_parts import (
    Bank3,
    Bank4,
    BankFlags4,
    Release3,
    Release4,
    ReleaseFlags4,
)

GRID = Grid(
    program=0x12_3456_7800,
    code_bytes=0x1300,
    groups=(70000, 1, 1),
    lanes=(256, 1, 1),
    registers=40,
    barriers=1,
    shared_bytes=0x4480,
    shared_configs=(32, 64, 100),
    local_bytes=0x260,
    sass_version=0x86,
    banks={0: Bank(0x12_0000_0400, 0x190, True), 3: Bank(0x12_0000_0800, 0x40)},
    releases=(Release(0x12_0000_2000, 7), Release(0x12_0000_2010, 1 << 40, is_wide=True)),
    dependent=0x12_0000_0100,
)
# How version 3 calls what later ones named anew.
OLD = {
    "grid_width": "CTA_RASTER_WIDTH", "grid_height": "CTA_RASTER_HEIGHT",
    "grid_depth": "CTA_RASTER_DEPTH", "register_count": "REGISTER_COUNT_V",
    "qmd_minor_version": "QMD_VERSION",
}  # fmt: skip
SPLIT = ("LOWER", "UPPER", "LOWER_SHIFTED", "UPPER_SHIFTED", "LOWER_SHIFTED4", "UPPER_SHIFTED4")
GENERATIONS = [(Qmd3, "NVC6C0_QMDV03_00"), (Qmd4, ""), (Qmd5, "NVCEC0_QMDV05_00")]


def vendor_of(prefix: str) -> dict[str, Any]:
    return table(prefix) if prefix else QMDV04_00


@pytest.mark.parametrize(("kind", "prefix"), GENERATIONS)
def test_fields_are_the_vendors(kind: type[Qmd], prefix: str):
    vendor = vendor_of(prefix)
    words = {"releases", "constant_buffers", "constant_buffer_valid", "release_flags"}
    words |= {"constant_buffer_flags", "release_semaphore0", "release_semaphore1"}
    for name, field in kind.FIELDS.items():
        if name in words:
            continue
        base = OLD.get(name, name.upper()) if kind is Qmd3 else name.upper()
        base = base.removesuffix("_SHIFTED")
        pieces = [vendor[f"{base}_{end}"] for end in SPLIT if f"{base}_{end}" in vendor]
        if not pieces:
            shifted = [base, f"{base}_SHIFTED4", f"{base}_SHIFTED7"]
            pieces = [vendor[k] for k in shifted if k in vendor]
            assert len(pieces) == 1, name
        covered = {bit for high, low in pieces for bit in range(low, high + 1)}
        ours = {bit for high, low in field.pieces for bit in range(low, high + 1)}
        assert ours == covered, name
        if len(field.pieces) > 1:  # the most significant piece first
            assert list(field.pieces) == [tuple(piece) for piece in reversed(pieces)]


def test_enumerators_are_the_vendors():
    vendor = table("NVCEC0_QMDV05_00")
    for name in ("qmd_type", "dependent_qmd0_action", "cwd_membar_type"):
        for value in Qmd5.FIELDS[name].convert:
            known = [f"{name.upper()}_{value.name}", f"{name.upper()}_QMD_{value.name}"]
            assert [vendor[k] for k in known if k in vendor] == [value]
    for value in StructureSize:
        assert vendor[f"RELEASE_STRUCTURE_SIZE_SEMAPHORE_{value.name}"] == value


@pytest.mark.parametrize(
    ("kind", "prefix", "at", "names"),
    [
        (Bank3, "NVC6C0_QMDV03_00", 1024, {
            "addr": ("CONSTANT_BUFFER_ADDR_LOWER", "CONSTANT_BUFFER_ADDR_UPPER"),
            "prefetch_post": ("CONSTANT_BUFFER_PREFETCH_POST",),
            "invalidate": ("CONSTANT_BUFFER_INVALIDATE",),
            "size_shifted4": ("CONSTANT_BUFFER_SIZE_SHIFTED4",),
        }),
        (Bank4, "NVCEC0_QMDV05_00", 1344, {
            "addr_shifted6": (
                "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6", "CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6",
            ),
            "size_shifted4": ("CONSTANT_BUFFER_SIZE_SHIFTED4",),
        }),
        (Bank4, "", 1536, {
            "addr_shifted6": (
                "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6", "CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6",
            ),
            "size_shifted4": ("CONSTANT_BUFFER_SIZE_SHIFTED4",),
        }),
        (BankFlags4, "NVCEC0_QMDV05_00", 1856, {
            "valid": ("CONSTANT_BUFFER_VALID",), "prefetch": ("CONSTANT_BUFFER_PREFETCH",),
            "invalidate": ("CONSTANT_BUFFER_INVALIDATE",),
        }),
        (BankFlags4, "", 416, {
            "valid": ("CONSTANT_BUFFER_VALID",), "prefetch": ("CONSTANT_BUFFER_PREFETCH",),
            "invalidate": ("CONSTANT_BUFFER_INVALIDATE",),
        }),
        (Release3, "NVC6C0_QMDV03_00", 768, {
            "address": ("RELEASE0_ADDRESS_LOWER", "RELEASE0_ADDRESS_UPPER"),
            "membar_type": ("RELEASE0_MEMBAR_TYPE",), "enable": ("RELEASE0_ENABLE",),
            "payload64b": ("RELEASE0_PAYLOAD64B",),
            "structure_size": ("RELEASE0_STRUCTURE_SIZE",),
            "payload": ("RELEASE0_PAYLOAD_LOWER", "RELEASE0_PAYLOAD_UPPER"),
        }),
        (Release4, "NVCEC0_QMDV05_00", 480, {
            "addr": ("RELEASE_SEMAPHORE0_ADDR_LOWER", "RELEASE_SEMAPHORE0_ADDR_UPPER"),
            "payload": ("RELEASE_SEMAPHORE0_PAYLOAD_LOWER", "RELEASE_SEMAPHORE0_PAYLOAD_UPPER"),
        }),
        (Release4, "", 640, {
            "addr": ("RELEASE_SEMAPHORE0_ADDR_LOWER", "RELEASE_SEMAPHORE0_ADDR_UPPER"),
            "payload": ("RELEASE_SEMAPHORE0_PAYLOAD_LOWER", "RELEASE_SEMAPHORE0_PAYLOAD_UPPER"),
        }),
        (ReleaseFlags4, "NVCEC0_QMDV05_00", 288, {
            "enable": ("RELEASE_ENABLE",), "structure_size": ("RELEASE_STRUCTURE_SIZE",),
            "membar_type": ("RELEASE_MEMBAR_TYPE",), "payload64b": ("RELEASE_PAYLOAD64B",),
        }),
        (ReleaseFlags4, "", 320, {
            "enable": ("RELEASE_ENABLE",), "structure_size": ("RELEASE_STRUCTURE_SIZE",),
            "membar_type": ("RELEASE_MEMBAR_TYPE",), "payload64b": ("RELEASE_PAYLOAD64B",),
        }),
    ],
)  # fmt: skip
def test_parts_are_the_vendors(kind: Any, prefix: str, at: int, names: dict[str, tuple[str, ...]]):
    vendor = vendor_of(prefix)
    for field, pieces in names.items():
        low, high = vendor[pieces[0]][1], vendor[pieces[-1]][0]
        assert (kind.FIELDS[field].high, kind.FIELDS[field].low) == (high - at, low - at), field


@pytest.mark.parametrize("kind", [Qmd3, Qmd4, Qmd5])
def test_what_is_encoded_is_read(kind: type[Qmd]):
    data = kind.encode_grid(GRID)
    assert len(data) == {3: 256, 4: 384, 5: 384}[kind.MAJOR]
    assert kind.decode(data).grid() == GRID
    plain = replace(GRID, dependent=None, releases=(), banks={}, local_bytes=0)
    assert kind.decode(kind.encode_grid(plain)).grid() == plain
    assert kind.decode(data).raw("qmd_major_version") == kind.MAJOR


def test_a_value_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="grid_height"):
        Qmd3.encode_grid(replace(GRID, groups=(1, 1 << 16, 1)))
    with pytest.raises(AssertionError):
        Qmd5.encode_grid(replace(GRID, program=0x1008))


class Tinygrad:
    """tinygrad's encoder of QMDs, for a compute class, without any device."""

    def __init__(self, compute_class: int) -> None:
        ops_nv = pytest.importorskip("tinygrad.runtime.ops_nv")
        ops_nv.nv_gpu = header()
        ops_nv.QMD.fields.clear()

        class Interface:
            pass

        class Device:
            iface = Interface()

        Device.iface.compute_class = compute_class  # type: ignore[attr-defined]
        self.qmd = ops_nv.QMD(dev=Device())

    def write(self, **fields: int) -> None:
        self.qmd.write(**fields)


def test_version_3_as_tinygrad_encodes_it():
    """The fields that NVProgram, exec and signal set, with its names, values and shifts."""
    peer = Tinygrad(0xC7C0)
    program = GRID.program
    peer.write(
        qmd_major_version=3, sm_global_caching_enable=1, program_address_upper=program >> 32,
        program_address_lower=program & 0xFFFF_FFFF, shared_memory_size=0x4480,
        register_count_v=40, shader_local_memory_high_size=0x260, qmd_group_id=0x3F,
        invalidate_texture_header_cache=1, invalidate_texture_sampler_cache=1,
        invalidate_texture_data_cache=1, invalidate_shader_data_cache=1, api_visible_call_limit=1,
        sampler_index=1, barrier_count=1, cwd_membar_type=1, constant_buffer_invalidate_0=1,
        min_sm_config_shared_mem_size=32 // 4 + 1, target_sm_config_shared_mem_size=64 // 4 + 1,
        max_sm_config_shared_mem_size=0x1A, program_prefetch_size=0x13, sass_version=0x86,
        program_prefetch_addr_upper_shifted=program >> 40,
        program_prefetch_addr_lower_shifted=program >> 8 & 0xFFFF_FFFF,
        constant_buffer_size_shifted4_0=0x19, constant_buffer_valid_0=1,
        constant_buffer_size_shifted4_3=4, constant_buffer_valid_3=1,
        cta_raster_width=70000, cta_raster_height=1, cta_raster_depth=1,
        cta_thread_dimension0=256, cta_thread_dimension1=1, cta_thread_dimension2=1,
        dependent_qmd0_pointer=0x12_0000_0100 >> 8, dependent_qmd0_action=1,
        dependent_qmd0_prefetch=1, dependent_qmd0_enable=1,
    )  # fmt: skip
    peer.qmd.set_constant_buf_addr(0, 0x12_0000_0400)
    peer.qmd.set_constant_buf_addr(3, 0x12_0000_0800)
    assert bytes(peer.qmd.mv) == Qmd3.encode_grid(replace(GRID, releases=()))
    # Its release leaves size and membar at zero, ours asks for one word and for the membar.
    peer.write(
        release0_enable=1, release0_address_lower=0x2000, release0_address_upper=0x12,
        release0_payload_lower=7, release0_membar_type=1, release0_structure_size=1,
    )  # fmt: skip
    assert bytes(peer.qmd.mv) == Qmd3.encode_grid(replace(GRID, releases=GRID.releases[:1]))


def test_version_5_as_tinygrad_encodes_it():
    peer = Tinygrad(0xCEC0)
    program = GRID.program
    peer.write(
        qmd_major_version=5, qmd_type=2, program_address_upper_shifted4=program >> 36,
        program_address_lower_shifted4=program >> 4 & 0xFFFF_FFFF, register_count=40,
        shared_memory_size_shifted7=0x4480 >> 7, shader_local_memory_high_size_shifted4=0x26,
        qmd_group_id=0x3F, invalidate_texture_header_cache=1, invalidate_texture_sampler_cache=1,
        invalidate_texture_data_cache=1, invalidate_shader_data_cache=1, api_visible_call_limit=1,
        sampler_index=1, barrier_count=1, cwd_membar_type=1, constant_buffer_invalidate_0=1,
        min_sm_config_shared_mem_size=32 // 4 + 1, target_sm_config_shared_mem_size=64 // 4 + 1,
        max_sm_config_shared_mem_size=0x1A, program_prefetch_size=0x13, sass_version=0xA4,
        program_prefetch_addr_upper_shifted=program >> 40,
        program_prefetch_addr_lower_shifted=program >> 8 & 0xFFFF_FFFF,
        constant_buffer_size_shifted4_0=0x19, constant_buffer_valid_0=1,
        constant_buffer_size_shifted4_3=4, constant_buffer_valid_3=1,
        grid_width=70000, grid_height=1, grid_depth=1,
        cta_thread_dimension0=256, cta_thread_dimension1=1, cta_thread_dimension2=1,
        dependent_qmd0_pointer=0x12_0000_0100 >> 8, dependent_qmd0_action=1,
        dependent_qmd0_prefetch=1, dependent_qmd0_enable=1,
        release_enable_0=1, release_semaphore0_addr_lower=0x2000,
        release_semaphore0_addr_upper=0x12, release_semaphore0_payload_lower=7,
        release_membar_type_0=1, release_structure_size_0=1,
        release_enable_1=1, release_semaphore1_addr_lower=0x2010,
        release_semaphore1_addr_upper=0x12, release_semaphore1_payload_upper=1 << 8,
        release_membar_type_1=1, release_structure_size_1=1, release_payload64b_1=1,
    )  # fmt: skip
    peer.qmd.set_constant_buf_addr(0, 0x12_0000_0400)
    peer.qmd.set_constant_buf_addr(3, 0x12_0000_0800)
    assert bytes(peer.qmd.mv) == Qmd5.encode_grid(replace(GRID, sass_version=0xA4))


def test_every_class_has_its_layout():
    expected = {
        0xC6C0: Qmd3, 0xC7C0: Qmd3, 0xC9C0: Qmd3, 0xCBC0: Qmd4, 0xCDC0: Qmd5, 0xCEC0: Qmd5,
    }  # fmt: skip
    assert {kind: layout(kind) for kind in expected} == expected
