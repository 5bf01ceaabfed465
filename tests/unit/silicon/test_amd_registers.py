"""Our AMD registers against somebody else's: the tables that tinygrad generates from headers.

Every register of every generation is looked up under the vendor's name; place and fields must be
the same. What the headers call otherwise is listed here, and nowhere else.
"""

from typing import Any

import pytest
from tinygrad.runtime.autogen.am import regs

from exosuit.datasheet import Block
from exosuit.datasheet.registers import Description
from exosuit.silicon.amd import gfx, hqd, hub, ih, nbio, psp, sdma_registers, smu

GENERATIONS = [
    (hub.GcHub1100, "gc_11_0_0"),
    (hub.GcHub1103, "gc_11_0_3"),
    (hub.GcHub1200, "gc_12_0_0"),
    (hub.MmHub300, "mmhub_3_0_0"),
    (hub.MmHub302, "mmhub_3_0_2"),
    (hub.MmHub410, "mmhub_4_1_0"),
    (hub.Atc300, "mmhub_3_0_0"),
    (gfx.Gfx, "gc_11_0_0"),
    (gfx.Gfx, "gc_11_0_3"),
    (gfx.Gfx12, "gc_12_0_0"),
    (hqd.Hqd, "gc_11_0_0"),
    (hqd.Hqd, "gc_11_0_3"),
    (hqd.Hqd, "gc_12_0_0"),
    (sdma_registers.Sdma6, "gc_11_0_0"),
    (sdma_registers.Sdma6, "gc_11_0_3"),
    (sdma_registers.Sdma7, "gc_12_0_0"),
    (nbio.Nbio, "nbio_4_3_0"),
    (nbio.Nbif, "nbif_6_3_1"),
    (nbio.Hdp, "hdp_6_0_0"),
    (nbio.Hdp, "hdp_7_0_0"),
    (psp.Psp, "mp_13_0_0"),
    (psp.Psp, "mp_14_0_2"),
    (smu.Smu, "mp_11_0_0"),
    (smu.Smu, "mp_13_0_0"),
    (ih.Ih, "osssys_6_0_0"),
    (ih.Ih7, "osssys_7_0_0"),
]

NOT_IN_THE_TABLES = {
    "unknown_1FB9",
    "BIF_BX0_MM_INDEX",
    "BIF_BX0_MM_DATA",
    "BIF_BX0_MM_INDEX_HI",
    "RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE",
    "BIF_BX0_REMAP_HDP_REG_FLUSH_CNTL",
    "CP_HQD_SEMA_CMD",  # gone from the headers of gfx12; the descriptor still has its dword
    "SCRATCH_REG",  # entries 0 to 5
    "C2PMSG_58",  # not in the subset for MPASP
}
"""Fixed places that drivers use without a header; amd.md sections 2 and 5."""

RENAMED = {
    "address": (
        "fb_base",
        "fb_top",
        "fb_offset",
        "agp_base",
        "agp_bot",
        "agp_top",
        "addr",
        "address",
    ),
    "enable": ("s2a_doorbell_port0_enable", "enable"),
    "doorbell": ("doorbell_range_lower", "doorbell_range_upper"),
    "f32_wptr_poll_enable": ("f32_wptr_poll_enable", "mcu_wptr_poll_enable"),
}


OWN_WORDS = {
    "FlushEngines",  # one field for ten bits
    "StormClients",
    "MemoryIndex",
    "FirmwareReady",
    "MessageWord",
    "DebugMessageWord",
    "ResponseWord",
}

LATER_FIELDS = {
    ("S2A_DOORBELL_ENTRY_CTRL", "disable_64bit"),
    ("VM_CONTEXT0_CNTL", "secure_protection_fault_enable_interrupt"),
    ("VM_CONTEXT0_CNTL", "secure_protection_fault_enable_default"),
    ("CP_HQD_DEQUEUE_REQUEST", "iq_req_pend"),
    ("IH_RB_CNTL_RING1", "wptr_writeback_enable"),
    ("IH_RB_CNTL_RING1", "enable_intr"),
    ("IH_RB_CNTL_RING1", "rptr_rearm"),
}
"""Fields that one generation or ring names and another leaves unnamed."""

FAULT_WAYS = ("enable_interrupt", "enable_default")


def vendor_names(register: Description[Any], block: type[Block], index: int) -> list[str]:
    name = register.name
    prefix = "reg"
    if issubclass(block, hub.Hub):
        prefix += block.PREFIX
        name = name.replace("_ENG_", f"_ENG{index}_")
    elif issubclass(block, psp.Psp):
        return [f"regMP0_SMN_{name}", f"regMPASP_SMN_{name}"]
    elif issubclass(block, smu.Smu):
        return [f"mmMP1_SMN_{name}", f"regMP1_SMN_{name}"]
    elif name == "S2A_DOORBELL_ENTRY_CTRL":
        entry = f"S2A_DOORBELL_ENTRY_{index}_CTRL"
        return [f"reg{entry}", f"regGDC_S2A0_{entry}"]
    elif name == "SCRATCH_REG":
        name = f"SCRATCH_REG{index}"
    names = [prefix + name]
    if name.endswith("_RING1"):
        names.append(f"reg{name.removesuffix('_RING1')}_RING1")
    if register.kind.WIDTH == 64:
        names += [f"{prefix}{name}_{low}" for low in ("LO32", "LO", "LSB")]
    return names


def high_names(register: Description[Any], block: type[Block], index: int) -> list[str]:
    name = register.name
    prefix = "reg"
    if issubclass(block, hub.Hub):
        prefix += block.PREFIX
        name = name.replace("_ENG_", f"_ENG{index}_")
    if name.endswith("_RING1"):
        return [f"reg{name.removesuffix('_RING1')}_HI_RING1"]
    return [f"{prefix}{name}_{high}" for high in ("HI32", "HI", "MSB")]


@pytest.mark.parametrize(("block", "table"), GENERATIONS, ids=lambda v: getattr(v, "__name__", v))
def test_registers_lie_where_the_headers_say(block: type[Block], table: str):
    headers: dict[str, tuple[int, int, dict[str, tuple[int, int]]]] = getattr(regs, table)
    missing: list[str] = []
    for register in block.REGISTERS.values():
        for index in range(register.count):
            place = (register.offset + index * register.stride) // 4, register.segment
            found = next(
                (headers[n] for n in vendor_names(register, block, index) if n in headers), None
            )
            if found is None:
                missing.append(register.name)
                continue
            assert found[:2] == place, (register.name, index)
            if register.kind.WIDTH == 64:
                high = next(
                    (headers[n] for n in high_names(register, block, index) if n in headers), None
                )
                assert high is not None, register.name
                assert high[:2] == (place[0] + 1, place[1]), (register.name, index)
    assert set(missing) <= NOT_IN_THE_TABLES


@pytest.mark.parametrize(("block", "table"), GENERATIONS, ids=lambda v: getattr(v, "__name__", v))
def test_fields_are_the_vendors(block: type[Block], table: str):
    headers: dict[str, tuple[int, int, dict[str, tuple[int, int]]]] = getattr(regs, table)
    checked = 0
    for register in block.REGISTERS.values():
        found = next((headers[n] for n in vendor_names(register, block, 0) if n in headers), None)
        if found is None or register.kind.WIDTH == 64 or register.kind.__name__ in OWN_WORDS:
            continue
        for name, field in register.kind.FIELDS.items():
            vendor = next((found[2][n] for n in RENAMED.get(name, (name,)) if n in found[2]), None)
            if vendor is None and f"s2a_doorbell_port0_{name}" in found[2]:
                vendor = found[2][f"s2a_doorbell_port0_{name}"]
            if vendor is None and (register.name, name) in LATER_FIELDS:
                continue
            assert vendor == (field.low, field.high), (register.name, name)
            checked += 1
    assert checked or block in (psp.Psp, smu.Smu)


def test_the_hub_table_and_its_class_agree():
    assert {name: row[0] for name, row in hub.OFFSETS.items()} == {
        name: register.offset // 4 for name, register in hub.Hub.REGISTERS.items()
    }


# Golden words: what tinygrad wrote and read in a traced boot (softcard.md section 4, amd.md 5).


def test_words_of_a_traced_boot():
    assert hub.L1TlbControl(
        enable_l1_tlb=True, system_access_mode=3, enable_advanced_driver_model=True, mtype=3
    ) == (0x1859)
    assert hub.L2Control(
        enable_l2_cache=True,
        enable_default_page_out_to_system_memory=True,
        context1_identity_access_mode=1,
    ) == (0x80801)
    assert hub.L2Control3(
        bank_select=9,
        l2_cache_bigk_fragment_size=6,
        l2_cache_bigk_associativity=1,
        l2_cache_4k_associativity=1,
    ) == (0x8013_0009)
    assert hub.L2Control5(walker_priority_client_id=0x1FF) == 0x3FE0
    for kind, word in ((hub.ContextControl, 0x01FF_FE07), (hub.ContextControl12, 0x01FF_FC07)):
        names = ("range", "dummy_page", "pde0", "valid", "read", "write", "execute")
        flags = {f"{n}_protection_fault_{w}": 1 for n in names for w in FAULT_WAYS}
        assert kind(0x180_0000, enable_context=True, page_table_depth=3, **flags) == word
    request = hub.InvalidateRequest(
        per_vmid_invalidate_req=1,
        invalidate_l2_ptes=True,
        invalidate_l2_pde0=True,
        invalidate_l2_pde1=True,
        invalidate_l2_pde2=True,
        invalidate_l1_ptes=True,
    )
    assert request == 0x00F8_0001
    assert nbio.DoorbellEntry(enable=True, awid=3, awaddr_31_28_value=3) == 0x3000_0007
    assert nbio.DoorbellEntry(enable=True, awid=6, awaddr_31_28_value=3) == 0x3000_000D
    sdma = nbio.DoorbellEntry(
        enable=True, awid=0xE, awaddr_31_28_value=3, range_offset=0x200, range_size=4
    )
    assert sdma == 0x3009_001D
    ring = ih.RingControl(
        mc_space=4,
        wptr_overflow_clear=True,
        rb_size=16,
        mc_snoop=True,
        wptr_overflow_enable=True,
        rptr_rearm=True,
    )
    assert ring == 0xC031_0020
    assert ring.replace(rb_enable=True, enable_intr=True) == 0xC033_0021
    assert gfx.ShMemConfig(initial_inst_prefetch=3, alignment_mode=3) == 0xC00C
    assert gfx.ShMemBases(private_base=2, shared_base=1) == 0x1_0002
    assert gfx.MecRs64Control(mec_pipe0_active=True) == 0x0400_0000
    assert gfx.GrbmSelect(meid=1) == 0x4
    assert gfx.GrbmSoftReset(soft_reset_cp=True, soft_reset_cpc=True) == 0x4_0001
    assert gfx.DoorbellRange(doorbell=62) == 0xF8
    assert hqd.DoorbellControl(doorbell_offset=6, doorbell_en=True) == 0x4000_0018
    assert hqd.QueueControl(rptr_block_size=5, queue_size=21) == 0x515
    assert hqd.PersistentState(preload_size=0x55, preload_req=True) == 0x5501
    control = sdma_registers.RingControl(
        rb_enable=True,
        rb_size=22,
        f32_wptr_poll_enable=True,
        rptr_writeback_enable=True,
        rptr_writeback_timer=4,
        rb_priv=True,
    )
    assert control == 0x84_182D
    assert sdma_registers.Utcl1Control(resp_mode=3, redo_delay=9) == 0x609
