"""Registers and structures of the bare boot against tinygrad's tables, generated from headers."""

from __future__ import annotations

import ctypes

import pytest
from tinygrad.runtime.autogen import nv
from tinygrad.runtime.autogen.nv_regs import (
    dev_bus,
    dev_falcon_second_pri,
    dev_falcon_v4,
    dev_fb,
    dev_fbif_v4,
    dev_fsp_pri,
    dev_gc6_island,
    dev_gsp,
    dev_riscv_pri,
    dev_sec_pri,
    dev_therm,
    dev_vm,
    nv_ref,
)

from exosuit.silicon.nvidia import boot, falcon, firmware, fsp, vbios
from exosuit.silicon.nvidia.chips import (
    CHIPS,
    Architecture,
    Boot0,
    Boot42,
    boot_0,
    boot_42,
    find_chip,
)

B = boot.BusTuring
F = falcon.Falcon
REGISTERS = [
    (nv_ref.regs, "NV_PMC_BOOT_0", B, "BOOT_0", {"architecture_0", "implementation"}),
    (nv_ref.regs, "NV_PMC_BOOT_42", B, "BOOT_42", {"architecture", "implementation"}),
    (nv_ref.regs, "NV_PMC_BOOT_1", B, "BOOT_1", {"vgpu"}),
    (dev_bus.tu102, "NV_PBUS_BAR1_BLOCK", B, "BAR1_BLOCK", {"target"}),
    (dev_bus.tu102, "NV_PBUS_VBIOS_SCRATCH", B, "VBIOS_SCRATCH", set()),
    (dev_fb.tu102, "NV_PFB_PRI_MMU_WPR2_ADDR_HI", B, "WPR2_ADDR_HI", set()),
    (dev_fb.tu102, "NV_PFB_PRI_MMU_WPR2_ADDR_LO", B, "WPR2_ADDR_LO", set()),
    (dev_gc6_island.ga102, "NV_PGC6_AON_SECURE_SCRATCH_GROUP_42", B, "VRAM_MIB", set()),
    (
        dev_gc6_island.ga102,
        "NV_PGC6_AON_SECURE_SCRATCH_GROUP_05_PRIV_LEVEL_MASK",
        B,
        "GFW_MASK",
        set(),
    ),
    (dev_gc6_island.ga102, "NV_PGC6_AON_SECURE_SCRATCH_GROUP_05", B, "GFW_PROGRESS", set()),
    (
        dev_gc6_island.ga102,
        "NV_PGC6_BSI_SECURE_SCRATCH_14",
        B,
        "BSI_SECURE_SCRATCH_14",
        {"boot_stage_3_handoff"},
    ),
    (dev_gsp.ga102, "NV_PGSP_QUEUE_HEAD", B, "GSP_QUEUE_HEAD", set()),
    (dev_therm.gb202, "NV_THERM_I2CS_SCRATCH", boot.BusBlackwell, "GFW_PROGRESS", set()),
    (
        dev_vm.gh100,
        "NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_LOW_ADDR",
        boot.BusBlackwell,
        "BAR1_BLOCK_LOW",
        {"target"},
    ),
    *[
        (dev_falcon_v4.ga102, f"NV_PFALCON_FALCON_{name}", F, name, fields)
        for name, fields in {
            "MAILBOX0": set(),
            "MAILBOX1": set(),
            "OS": set(),
            "RM": set(),
            "HWCFG": {"imem_size"},
            "HWCFG2": {"riscv", "mem_scrubbing", "reset_ready"},
            "CPUCTL": {"startcpu", "halted", "alias_en"},
            "BOOTVEC": set(),
            "DMACTL": {"require_ctx"},
            "DMATRFBASE": set(),
            "DMATRFBASE1": set(),
            "DMATRFMOFFS": set(),
            "DMATRFFBOFFS": set(),
            "DMATRFCMD": {
                "full", "idle", "sec", "imem", "write", "size", "ctxdma", "set_dmtag",
            },
            "IMEMC": {"secure"},
            "DMEMC": set(),
            "DMEMD": set(),
        }.items()
    ],
    (dev_fbif_v4.ga102, "NV_PFALCON_FBIF_TRANSCFG", F, "FBIF_TRANSCFG", {"target"}),
    (dev_fbif_v4.ga102, "NV_PFALCON_FBIF_CTL", F, "FBIF_CTL", {"allow_phys_no_ctx"}),
    (dev_riscv_pri.ga102, "NV_PRISCV_RISCV_CPUCTL", F, "RISCV_CPUCTL", {"active_stat", "halted"}),
    (
        dev_riscv_pri.ga102,
        "NV_PRISCV_RISCV_BCR_CTRL",
        F,
        "RISCV_BCR_CTRL",
        {"valid", "core_select", "brfetch"},
    ),
    (dev_falcon_second_pri.ga102, "NV_PFALCON2_FALCON_MOD_SEL", F, "MOD_SEL", {"algo"}),
    (
        dev_falcon_second_pri.ga102,
        "NV_PFALCON2_FALCON_BROM_CURR_UCODE_ID",
        F,
        "BROM_CURR_UCODE_ID",
        {"val"},
    ),
    (
        dev_falcon_second_pri.ga102,
        "NV_PFALCON2_FALCON_BROM_ENGIDMASK",
        F,
        "BROM_ENGIDMASK",
        set(),
    ),
    (dev_falcon_second_pri.ga102, "NV_PFALCON2_FALCON_BROM_PARAADDR", F, "BROM_PARAADDR", set()),
    *[
        (dev_fsp_pri.gh100, f"NV_PFSP_{name}", fsp.Fsp, name, set())
        for name in ("EMEMC", "EMEMD", "QUEUE_HEAD", "QUEUE_TAIL", "MSGQ_HEAD", "MSGQ_TAIL")
    ],
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "name", "block", "ours", "fields"), REGISTERS, ids=[row[1] for row in REGISTERS]
)
def test_registers_lie_where_the_headers_say(table, name, block, ours, fields):
    base, offset, theirs = table[name]
    found = block.REGISTERS[ours]
    indices = range(min(found.count, 3)) if callable(offset) else (0,)
    for index in indices:
        at = base + (offset(index) if callable(offset) else offset)
        assert found.offset + index * found.stride == at
    for field in fields:
        low, high = theirs[field]
        described = found.kind.FIELDS[field]
        assert (described.low, described.high) == (low, high), field


def test_bases():
    assert dev_gsp.ga102["NV_PGSP_FALCON_MAILBOX0"][1] == falcon.GSP + 0x40
    assert dev_sec_pri.ga102["NV_PSEC_FALCON_ENGINE"][1] == falcon.SEC2 + 0x3C0
    low, high = dev_falcon_v4.gh100["NV_PFALCON_FALCON_HWCFG2"][2]["riscv_br_priv_lockdown"]
    assert falcon.Hwcfg2(riscv_br_priv_lockdown=True) == 1 << low == 1 << high


STRUCTS = [
    (vbios.BitHeader, nv.BIT_HEADER_V1_00),
    (vbios.BitToken, nv.BIT_TOKEN_V1_00),
    (vbios.FalconTable, nv.FALCON_UCODE_TABLE_HDR_V1),
    (vbios.FalconEntry, nv.FALCON_UCODE_TABLE_ENTRY_V1),
    (vbios.FalconDescriptor, nv.FALCON_UCODE_DESC_V3),
    (vbios.InterfaceHeader, nv.FALCON_APPLICATION_INTERFACE_HEADER_V1),
    (vbios.InterfaceEntry, nv.FALCON_APPLICATION_INTERFACE_ENTRY_V1),
    (vbios.DmemMapper, nv.FALCON_APPLICATION_INTERFACE_DMEM_MAPPER_V3),
    (vbios.ReadVbios, nv.FWSECLIC_READ_VBIOS_DESC),
    (vbios.FrtsRegion, nv.FWSECLIC_FRTS_REGION_DESC),
    (vbios.FrtsCommand, nv.FWSECLIC_FRTS_CMD),
    (firmware.BinHeader, nv.struct_nvfw_bin_hdr),
    (firmware.HsHeader, nv.struct_nvfw_hs_header_v2),
    (firmware.LoadApp, nv.struct_nvfw_hs_load_header_v2_app),
    (fsp.ChainOfTrust, nv.NVDM_PAYLOAD_COT),
]


@pytest.mark.parametrize(("ours", "theirs"), STRUCTS, ids=[o.__name__ for o, _ in STRUCTS])
def test_structures_are_laid_out_as_the_headers_do(ours, theirs):
    assert ctypes.sizeof(theirs) == ours.SIZE
    fields = getattr(theirs, "_real_fields_", None) or theirs._fields_
    offsets = [getattr(theirs, field[0]).offset for field in fields]
    assert [slot.offset for slot in ours.SLOTS.values()] == offsets


def test_frts_command_is_tinygrads():
    read = nv.FWSECLIC_READ_VBIOS_DESC(version=1, size=24, flags=2)
    region = nv.FWSECLIC_FRTS_REGION_DESC(
        version=1, size=20, frtsRegionOffset4K=0x5FE00, frtsRegionSize=0x100, frtsRegionMediaType=2
    )
    theirs = nv.FWSECLIC_FRTS_CMD(readVbiosDesc=read, frtsRegionDesc=region)
    assert bytes(vbios.frts_command(0x5FE0_0000)) == bytes(theirs)


def test_message_words():
    # The two words that tinygrad puts before a chain of trust.
    head = fsp.message(fsp.NvdmType.COT, bytes(fsp.ChainOfTrust.SIZE))[:8]
    assert head == ((1 << 31) | (1 << 30)).to_bytes(4, "little") + (
        0x7E | 0x10DE << 8 | 0x14 << 24
    ).to_bytes(4, "little")
    assert len(fsp.message(fsp.NvdmType.COT, bytes(fsp.ChainOfTrust.SIZE))) < fsp.MESSAGE_LIMIT


def test_every_chip_is_found_by_its_identity():
    for chip in CHIPS:
        assert find_chip(boot_42(chip)) is chip
        zero = boot_0(chip)
        assert zero.architecture_0 | zero.architecture_1 << 5 == chip.architecture.value
    assert find_chip(0xFFFF_FFFF) is None
    assert find_chip(0x1660_0000) is None  # Turing
    # An RTX 4090 and an RTX 3090 as Linux logs them.
    assert find_chip(0x1920_00A1 << 0).name == "AD102"
    assert Boot0(0x192000A1).major_revision == 0xA
    assert Boot42(0x1720_0000).architecture == Architecture.AMPERE.value


def test_what_refused_registers_read_as():
    assert boot.is_refused(0xBADF_5108)
    assert boot.is_refused(0xBAD0_0011)
    assert not boot.is_refused(0x6000)
    assert falcon.is_locked_out(0xBADF_4100)
    assert not falcon.is_locked_out(0xBADF_5108)


def test_fuse_versions_count_the_highest_bit():
    # kgspReadUcodeFuseVersion_GA100: 0 for none, else the index of the highest bit and one more.
    assert [boot.FuseVersion(value).version for value in (0, 1, 3, 0x80)] == [0, 1, 2, 8]
