"""Memory hubs: the registers by which graphics (GC) and everything else (MM) see memory.

Both hubs are the same design under two names: `GCVM_L2_CNTL` and `MMVM_L2_CNTL` are `VM_L2_CNTL`
here. What moved between generations is where they lie, so one class says what there is and a
table says where. LO32/HI32 pairs are one 64-bit register.

Sources: Linux `asic_reg/gc/gc_11_0_0_*.h`, `gc_11_0_3_*.h`, `gc_12_0_0_*.h`, `asic_reg/mmhub/
mmhub_3_0_0_*.h`, `mmhub_3_0_2_*.h`, `mmhub_4_1_0_*.h`, `gfxhub_v3_0.c`, `mmhub_v3_0.c`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, cast

from exosuit.datasheet import Block, Word, at, bits, flag

ENGINES = 18
"""Invalidation engines of a hub; drivers of this kind use the last."""
DRIVER_ENGINE = 17


class FbLocation(Word):
    """A bound of local memory in the MC address space, in units of 16 MiB."""

    address = bits(23, 0, "address >> 24")


class L1TlbControl(Word):
    enable_l1_tlb = flag(0)
    system_access_mode = bits(4, 3, "3: inside the system aperture unmapped, else mapped")
    system_aperture_unmapped_access = bits(5, 5)
    enable_advanced_driver_model = flag(6)
    eco_bits = bits(10, 7)
    mtype = bits(13, 11, "3 is uncached")


class L1TlbControl12(L1TlbControl):
    mtype = bits(12, 11, "3 is uncached")


class L2Control(Word):
    enable_l2_cache = flag(0)
    enable_l2_fragment_processing = flag(1)
    l2_cache_pte_endian_swap_mode = bits(3, 2)
    l2_cache_pde_endian_swap_mode = bits(5, 4)
    l2_pde0_cache_tag_generation_mode = bits(8, 8)
    enable_l2_pte_cache_lru_update_by_write = flag(9)
    enable_l2_pde0_cache_lru_update_by_write = flag(10)
    enable_default_page_out_to_system_memory = flag(11)
    l2_pde0_cache_split_mode = bits(14, 12)
    effective_l2_queue_size = bits(17, 15)
    pde_fault_classification = bits(18, 18)
    context1_identity_access_mode = bits(20, 19)
    identity_mode_fragment_size = bits(25, 21)
    l2_pte_cache_addr_mode = bits(27, 26)


class L2Control2(Word):
    invalidate_all_l1_tlbs = flag(0)
    invalidate_l2_cache = flag(1)
    disable_invalidate_per_domain = flag(21)
    disable_bigk_cache_optimization = flag(22)
    l2_pte_cache_vmid_mode = bits(25, 23)
    invalidate_cache_mode = bits(27, 26)
    pde_cache_effective_size = bits(30, 28)


class L2Control3(Word):
    bank_select = bits(5, 0)
    l2_cache_update_mode = bits(7, 6)
    l2_cache_update_wildcard_reference_value = bits(12, 8)
    l2_cache_bigk_fragment_size = bits(19, 15)
    l2_cache_bigk_associativity = bits(20, 20)
    l2_cache_4k_effective_size = bits(23, 21)
    l2_cache_bigk_effective_size = bits(27, 24)
    l2_cache_4k_force_miss = flag(28)
    l2_cache_bigk_force_miss = flag(29)
    pde_cache_force_miss = flag(30)
    l2_cache_4k_associativity = bits(31, 31)


class L2Control4(Word):
    l2_cache_4k_partition_count = bits(5, 0)
    vmc_tap_pde_request_physical = flag(6)
    vmc_tap_pte_request_physical = flag(7)


class L2Control5(Word):
    l2_cache_smallk_fragment_size = bits(4, 0)
    walker_priority_client_id = bits(13, 5)
    walker_fetch_pde_noalloc_enable = flag(14)
    walker_fetch_pde_mtype_enable = flag(15)


class FaultControl(Word):
    clear_protection_fault_status_addr = flag(0, "write 1 to clear status and address")
    allow_subsequent_protection_fault_status_addr_updates = flag(1)
    range_protection_fault_enable_default = flag(2)
    pde0_protection_fault_enable_default = flag(3)
    pde1_protection_fault_enable_default = flag(4)
    pde2_protection_fault_enable_default = flag(5)
    translate_further_protection_fault_enable_default = flag(6)
    nack_protection_fault_enable_default = flag(7)
    dummy_page_protection_fault_enable_default = flag(8)
    valid_protection_fault_enable_default = flag(9)
    read_protection_fault_enable_default = flag(10)
    write_protection_fault_enable_default = flag(11)
    execute_protection_fault_enable_default = flag(12)
    client_id_no_retry_fault_interrupt = bits(28, 13)
    other_client_id_no_retry_fault_interrupt = flag(29)
    crash_on_no_retry_fault = flag(30)
    crash_on_retry_fault = flag(31)


class FaultControl2(Word):
    client_id_prt_fault_interrupt = bits(15, 0)
    other_client_id_prt_fault_interrupt = flag(16)
    active_page_migration_pte = flag(17)
    active_page_migration_pte_read_retry = flag(18)
    enable_retry_fault_interrupt = flag(19)


class Client(IntEnum):
    """Who asked the graphics hub for an address (`cid` of a fault)."""

    CB = 0
    DB = 1
    GE1 = 2
    GE2 = 3
    CPF = 4
    CPC = 5
    CPG = 6
    RLC = 7
    TCP = 8
    SQC_INSTRUCTION = 9
    SQC_DATA = 10
    SQG = 11
    SDMA0 = 13
    SDMA1 = 14
    GCR = 15
    WGS = 18
    DSM = 19
    PA = 20


class WalkerError(IntEnum):
    """Where the walk failed. `assumed`: the numbers are Linux' names in order."""

    NONE = 0
    RANGE = 1
    PDE0 = 2
    PDE1 = 3
    PDE2 = 4
    TRANSLATE_FURTHER = 5
    NACK = 6
    DUMMY_PAGE = 7


class FaultStatus(Word):
    """First fault since the last clear."""

    more_faults = flag(0)
    walker_error = bits(3, 1, kind=WalkerError)
    permission_faults = bits(7, 4, "which of valid, read, write, execute was missing")
    mapping_error = flag(8)
    cid = bits(17, 9, kind=Client)
    rw = flag(18, "1 for a write")
    atomic = flag(19)
    vmid = bits(23, 20)
    vf = flag(24)
    vfid = bits(28, 25)
    prt = flag(29)


class FaultStatus12(FaultStatus):
    """gfx12 widens it: LO32 and HI32."""

    WIDTH = 64
    vfid = bits(29, 25)
    prt = flag(30)
    uce = flag(31)
    fed = flag(32)


class PageNumber(Word):
    """An address >> 12, in a pair of registers."""

    WIDTH = 64
    page = bits(51, 0)


class PageTableBase(Word):
    """Where the root table lies: an address in local memory, with its valid bit."""

    WIDTH = 64
    valid = flag(0)
    frame = bits(47, 12, "address >> 12")


class ContextControl(Word):
    """What a context does with addresses, and with those that fail."""

    enable_context = flag(0)
    page_table_depth = bits(2, 1, "levels of directories above the last table")
    page_table_block_size = bits(6, 3)
    retry_permission_or_invalid_page_fault = flag(7)
    retry_other_fault = flag(8)
    range_protection_fault_enable_interrupt = flag(9)
    range_protection_fault_enable_default = flag(10)
    dummy_page_protection_fault_enable_interrupt = flag(11)
    dummy_page_protection_fault_enable_default = flag(12)
    pde0_protection_fault_enable_interrupt = flag(13)
    pde0_protection_fault_enable_default = flag(14)
    valid_protection_fault_enable_interrupt = flag(15)
    valid_protection_fault_enable_default = flag(16)
    read_protection_fault_enable_interrupt = flag(17)
    read_protection_fault_enable_default = flag(18)
    write_protection_fault_enable_interrupt = flag(19)
    write_protection_fault_enable_default = flag(20)
    execute_protection_fault_enable_interrupt = flag(21)
    execute_protection_fault_enable_default = flag(22)
    secure_protection_fault_enable_interrupt = flag(23)
    secure_protection_fault_enable_default = flag(24)


class ContextControl12(ContextControl):
    """gfx12: everything from the block size up moved by one bit."""

    page_table_block_size = bits(7, 4)
    retry_permission_or_invalid_page_fault = flag(8)
    retry_other_fault = flag(9)
    range_protection_fault_enable_interrupt = flag(10)
    range_protection_fault_enable_default = flag(11)
    dummy_page_protection_fault_enable_interrupt = flag(12)
    dummy_page_protection_fault_enable_default = flag(13)
    pde0_protection_fault_enable_interrupt = flag(14)
    pde0_protection_fault_enable_default = flag(15)
    valid_protection_fault_enable_interrupt = flag(16)
    valid_protection_fault_enable_default = flag(17)
    read_protection_fault_enable_interrupt = flag(18)
    read_protection_fault_enable_default = flag(19)
    write_protection_fault_enable_interrupt = flag(20)
    write_protection_fault_enable_default = flag(21)
    execute_protection_fault_enable_interrupt = flag(22)
    execute_protection_fault_enable_default = flag(23)
    secure_protection_fault_enable_interrupt = flag(24)
    secure_protection_fault_enable_default = flag(25)


class InvalidateSemaphore(Word):
    semaphore = flag(0, "reads 1 to the one reader that takes it; write 0 to give it back")


class InvalidateRequest(Word):
    per_vmid_invalidate_req = bits(15, 0, "one bit per VMID")
    flush_type = bits(18, 16)
    invalidate_l2_ptes = flag(19)
    invalidate_l2_pde0 = flag(20)
    invalidate_l2_pde1 = flag(21)
    invalidate_l2_pde2 = flag(22)
    invalidate_l1_ptes = flag(23)
    clear_protection_fault_status_addr = flag(24)
    log_request = flag(25)
    invalidate_4k_pages_only = flag(26)


class InvalidateAcknowledge(Word):
    per_vmid_invalidate_ack = bits(15, 0)
    semaphore = flag(16)


class BankSelectReserved(Word):
    reserved_read_client_id = bits(8, 0)
    reserved_write_client_id = bits(18, 10)
    enable = flag(20)
    reserved_cache_invalidation_mode = flag(24)
    reserved_cache_private_invalidation = flag(25, "set and read back after each invalidation")
    reserved_cache_fragment_size = bits(30, 26)


class Hub(Block):
    """One memory hub, as GC 11.0.0 places it. `PREFIX` is what the vendor puts before names."""

    UNIT = 4
    PREFIX: ClassVar[str] = "GC"

    MC_VM_FB_LOCATION_BASE = at(0x1678, FbLocation, "set by the card's own firmware")
    MC_VM_FB_LOCATION_TOP = at(0x1679, FbLocation, "last 16 MiB unit, itself included")
    MC_VM_FB_OFFSET = at(0x15A7, FbLocation, "added to offsets in page tables; 0 on these cards")
    MC_VM_AGP_BASE = at(0x167C, FbLocation)
    MC_VM_AGP_BOT = at(0x167B, FbLocation, "above AGP_TOP: the window is off")
    MC_VM_AGP_TOP = at(0x167A, FbLocation)
    MC_VM_SYSTEM_APERTURE_LOW_ADDR = at(0x167D, Word, "MC address >> 18")
    MC_VM_SYSTEM_APERTURE_HIGH_ADDR = at(0x167E, Word, "MC address >> 18")
    MC_VM_SYSTEM_APERTURE_DEFAULT_ADDR = at(0x15A8, PageNumber, "LSB, MSB")
    MC_VM_MX_L1_TLB_CNTL = at(0x167F, L1TlbControl)
    VM_L2_CNTL = at(0x15BC, L2Control)
    VM_L2_CNTL2 = at(0x15BD, L2Control2)
    VM_L2_CNTL3 = at(0x15BE, L2Control3)
    VM_L2_CNTL4 = at(0x15D4, L2Control4)
    VM_L2_CNTL5 = at(0x15DA, L2Control5)
    VM_L2_STATUS = at(0x15BF, Word, access="ro")
    VM_L2_PROTECTION_FAULT_CNTL = at(0x15C4, FaultControl)
    VM_L2_PROTECTION_FAULT_CNTL2 = at(0x15C5, FaultControl2)
    VM_L2_PROTECTION_FAULT_STATUS = at(0x15C8, FaultStatus, access="ro")
    VM_L2_PROTECTION_FAULT_ADDR = at(0x15C9, PageNumber, access="ro")
    VM_L2_PROTECTION_FAULT_DEFAULT_ADDR = at(0x15CB, PageNumber, "the dummy page")
    VM_L2_CONTEXT1_IDENTITY_APERTURE_LOW_ADDR = at(0x15CE, PageNumber)
    VM_L2_CONTEXT1_IDENTITY_APERTURE_HIGH_ADDR = at(0x15D0, PageNumber)
    VM_L2_CONTEXT_IDENTITY_PHYSICAL_OFFSET = at(0x15D2, PageNumber)
    VM_L2_BANK_SELECT_RESERVED_CID2 = at(0x15D7, BankSelectReserved)
    VM_CONTEXT0_CNTL = at(0x1688, ContextControl)
    VM_CONTEXT0_PAGE_TABLE_BASE_ADDR = at(0x16F3, PageTableBase)
    VM_CONTEXT0_PAGE_TABLE_START_ADDR = at(0x1713, PageNumber, "subtracted before indexing")
    VM_CONTEXT0_PAGE_TABLE_END_ADDR = at(0x1733, PageNumber, "last page, itself included")
    VM_INVALIDATE_ENG_SEM = at(0x1699, InvalidateSemaphore, count=ENGINES, stride=1)
    VM_INVALIDATE_ENG_REQ = at(0x16AB, InvalidateRequest, count=ENGINES, stride=1)
    VM_INVALIDATE_ENG_ACK = at(0x16BD, InvalidateAcknowledge, access="ro", count=ENGINES, stride=1)
    VM_INVALIDATE_ENG_ADDR_RANGE = at(0x16CF, PageNumber, count=ENGINES, stride=2)


# fmt: off
OFFSETS: dict[str, tuple[int, int, int, int, int, int]] = {
    #                                            GC 11.0.0 11.0.3  12.0.0  MM 3.0.0 3.0.2   4.1.0
    "MC_VM_FB_LOCATION_BASE":                     (0x1678, 0x1688, 0x1614, 0x08EC, 0x086C, 0x0554),
    "MC_VM_FB_LOCATION_TOP":                      (0x1679, 0x1689, 0x1615, 0x08ED, 0x086D, 0x0555),
    "MC_VM_FB_OFFSET":                            (0x15A7, 0x15A7, 0x15A7, 0x08D7, 0x0857, 0x04C7),
    "MC_VM_AGP_BASE":                             (0x167C, 0x168C, 0x1618, 0x08F0, 0x0870, 0x0558),
    "MC_VM_AGP_BOT":                              (0x167B, 0x168B, 0x1617, 0x08EF, 0x086F, 0x0557),
    "MC_VM_AGP_TOP":                              (0x167A, 0x168A, 0x1616, 0x08EE, 0x086E, 0x0556),
    "MC_VM_SYSTEM_APERTURE_LOW_ADDR":             (0x167D, 0x168D, 0x1619, 0x08F1, 0x0871, 0x0559),
    "MC_VM_SYSTEM_APERTURE_HIGH_ADDR":            (0x167E, 0x168E, 0x161A, 0x08F2, 0x0872, 0x055A),
    "MC_VM_SYSTEM_APERTURE_DEFAULT_ADDR":         (0x15A8, 0x15A8, 0x15A8, 0x08D8, 0x0858, 0x04C8),
    "MC_VM_MX_L1_TLB_CNTL":                       (0x167F, 0x168F, 0x161B, 0x08F3, 0x0873, 0x055B),
    "VM_L2_CNTL":                                 (0x15BC, 0x15C0, 0x15C4, 0x0700, 0x0680, 0x04E4),
    "VM_L2_CNTL2":                                (0x15BD, 0x15C1, 0x15C5, 0x0701, 0x0681, 0x04E5),
    "VM_L2_CNTL3":                                (0x15BE, 0x15C2, 0x15C6, 0x0702, 0x0682, 0x04E6),
    "VM_L2_CNTL4":                                (0x15D4, 0x15D8, 0x15DD, 0x0718, 0x0698, 0x04FD),
    "VM_L2_CNTL5":                                (0x15DA, 0x15DE, 0x15E3, 0x071E, 0x069E, 0x0503),
    "VM_L2_STATUS":                               (0x15BF, 0x15C3, 0x15C7, 0x0703, 0x0683, 0x04E7),
    "VM_L2_PROTECTION_FAULT_CNTL":                (0x15C4, 0x15C8, 0x15CC, 0x0708, 0x0688, 0x04EC),
    "VM_L2_PROTECTION_FAULT_CNTL2":               (0x15C5, 0x15C9, 0x15CD, 0x0709, 0x0689, 0x04ED),
    "VM_L2_PROTECTION_FAULT_STATUS":              (0x15C8, 0x15CC, 0x15D0, 0x070C, 0x068C, 0x04F0),
    "VM_L2_PROTECTION_FAULT_ADDR":                (0x15C9, 0x15CD, 0x15D2, 0x070D, 0x068D, 0x04F2),
    "VM_L2_PROTECTION_FAULT_DEFAULT_ADDR":        (0x15CB, 0x15CF, 0x15D4, 0x070F, 0x068F, 0x04F4),
    "VM_L2_CONTEXT1_IDENTITY_APERTURE_LOW_ADDR":  (0x15CE, 0x15D2, 0x15D7, 0x0712, 0x0692, 0x04F7),
    "VM_L2_CONTEXT1_IDENTITY_APERTURE_HIGH_ADDR": (0x15D0, 0x15D4, 0x15D9, 0x0714, 0x0694, 0x04F9),
    "VM_L2_CONTEXT_IDENTITY_PHYSICAL_OFFSET":     (0x15D2, 0x15D6, 0x15DB, 0x0716, 0x0696, 0x04FB),
    "VM_L2_BANK_SELECT_RESERVED_CID2":            (0x15D7, 0x15DB, 0x15E0, 0x071B, 0x069B, 0x0500),
    "VM_CONTEXT0_CNTL":                           (0x1688, 0x1698, 0x1624, 0x0740, 0x06C0, 0x0564),
    "VM_CONTEXT0_PAGE_TABLE_BASE_ADDR":           (0x16F3, 0x1703, 0x168F, 0x07AB, 0x072B, 0x05CF),
    "VM_CONTEXT0_PAGE_TABLE_START_ADDR":          (0x1713, 0x1723, 0x16AF, 0x07CB, 0x074B, 0x05EF),
    "VM_CONTEXT0_PAGE_TABLE_END_ADDR":            (0x1733, 0x1743, 0x16CF, 0x07EB, 0x076B, 0x060F),
    "VM_INVALIDATE_ENG_SEM":                      (0x1699, 0x16A9, 0x1635, 0x0751, 0x06D1, 0x0575),
    "VM_INVALIDATE_ENG_REQ":                      (0x16AB, 0x16BB, 0x1647, 0x0763, 0x06E3, 0x0587),
    "VM_INVALIDATE_ENG_ACK":                      (0x16BD, 0x16CD, 0x1659, 0x0775, 0x06F5, 0x0599),
    "VM_INVALIDATE_ENG_ADDR_RANGE":               (0x16CF, 0x16DF, 0x166B, 0x0787, 0x0707, 0x05AB),
}
# fmt: on

_GFX12_KINDS: dict[str, type[Word]] = {
    "MC_VM_MX_L1_TLB_CNTL": L1TlbControl12,
    "VM_L2_PROTECTION_FAULT_STATUS": FaultStatus12,
    "VM_CONTEXT0_CNTL": ContextControl12,
}


def _generation(
    name: str, doc: str, column: int, prefix: str, kinds: dict[str, type[Word]]
) -> type[Hub]:
    """The hub with the offsets of one column of the table, and what else moved."""
    described: dict[str, Any] = {"__doc__": doc, "__module__": __name__, "PREFIX": prefix}
    for register in Hub.REGISTERS.values():
        described[register.name] = at(
            OFFSETS[register.name][column],
            kinds.get(register.name, register.kind),
            register.doc,
            access=register.access,
            count=register.count,
            stride=register.stride // Hub.UNIT,
        )
    return cast("type[Hub]", type(name, (Hub,), described))


GcHub1100 = _generation("GcHub1100", "GC 11.0.0 and 11.0.2.", 0, "GC", {})
GcHub1103 = _generation("GcHub1103", "GC 11.0.3 (Navi 32).", 1, "GC", {})
GcHub1200 = _generation("GcHub1200", "GC 12.0.0 and 12.0.1.", 2, "GC", _GFX12_KINDS)
MmHub300 = _generation("MmHub300", "MMHUB 3.0.0.", 3, "MM", {})
MmHub302 = _generation("MmHub302", "MMHUB 3.0.2 (Navi 33).", 4, "MM", {})
MmHub410 = _generation("MmHub410", "MMHUB 4.1.0.", 5, "MM", _GFX12_KINDS)


class AtcClockGating(Word):
    offdly = bits(11, 6)
    enable = flag(18)
    mem_ls_enable = flag(19)


class Atc300(Block):
    """What MMHUB 3.0.0 has beside its hub (in MMHUB's bases)."""

    UNIT = 4
    MM_ATC_L2_MISC_CG = at(0x6CD, AtcClockGating)
