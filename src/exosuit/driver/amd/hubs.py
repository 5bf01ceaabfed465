"""Memory hubs: the apertures and the one page-table context of the graphics and the memory hub.

Both get the same set-up. Only what sits behind the graphics hub (MEC, SDMA, shaders) uses virtual
addresses here; PSP, SMU and the interrupt ring behind the memory hub use MC and bus addresses.

Sources: Linux `gfxhub_v3_0.c`, `mmhub_v3_0.c`, `gmc_v11_0.c`, `gmc_v12_0.c`.
"""

from __future__ import annotations

from exosuit.clock import Clock
from exosuit.driver.amd import layout
from exosuit.driver.amd.registers import Registers
from exosuit.driver.boot import poll
from exosuit.silicon.amd.hub import DRIVER_ENGINE, ENGINES, FaultStatus, Hub, InvalidateRequest
from exosuit.silicon.amd.paging import LEVELS, MemoryType
from exosuit.units import VramAddress

VA_BASE = 0x2000_0000_0000
VA_END = 0x8000_0000_0000
"""Virtual addresses from and up to; none of them can be taken for a host's or a bus address."""

_APERTURE_SHIFT = 18
_FB_SHIFT = 24
_EVERYTHING = 0x1F_FFFF_FFFF
_NOWHERE = 0xF_FFFF_FFFF
_INVALIDATE = InvalidateRequest(
    per_vmid_invalidate_req=1, invalidate_l2_ptes=True, invalidate_l2_pde0=True,
    invalidate_l2_pde1=True, invalidate_l2_pde2=True, invalidate_l1_ptes=True,
)  # fmt: skip
_FAULTS = ("range", "dummy_page", "pde0", "valid", "read", "write", "execute", "secure")


class Hubs:
    """Both hubs of one card."""

    def __init__(self, registers: Registers, clock: Clock) -> None:
        self._registers = registers
        self._clock = clock
        self.graphics = registers.gc_hub
        self.memory = registers.mm_hub

    def read_location(self) -> tuple[int, int]:
        """First and last MC address of local memory, the last in whole units of 16 MiB."""
        first = self.memory.MC_VM_FB_LOCATION_BASE.read().address << _FB_SHIFT
        last = self.memory.MC_VM_FB_LOCATION_TOP.read().address << _FB_SHIFT
        return first, last

    def set_up(self, hub: Hub, location: tuple[int, int]) -> None:
        """Program one hub; nothing may use it meanwhile."""
        first, last = location
        scratch, dummy = VramAddress(layout.SCRATCH_PAGE), VramAddress(layout.DUMMY_PAGE)
        hub.MC_VM_AGP_BASE.write(0)
        hub.MC_VM_AGP_BOT.write(address=0xFF_FFFF)  # above the top: no such window
        hub.MC_VM_AGP_TOP.write(0)
        hub.MC_VM_SYSTEM_APERTURE_LOW_ADDR.write(first >> _APERTURE_SHIFT)
        hub.MC_VM_SYSTEM_APERTURE_HIGH_ADDR.write(last >> _APERTURE_SHIFT)
        hub.MC_VM_SYSTEM_APERTURE_DEFAULT_ADDR.write(page=scratch >> 12)
        hub.VM_L2_PROTECTION_FAULT_DEFAULT_ADDR.write(page=dummy >> 12)
        hub.VM_L2_PROTECTION_FAULT_CNTL2.update(active_page_migration_pte_read_retry=True)
        hub.MC_VM_MX_L1_TLB_CNTL.update(
            enable_l1_tlb=True, system_access_mode=3, system_aperture_unmapped_access=0,
            enable_advanced_driver_model=True, eco_bits=0, mtype=MemoryType.UC,
        )  # fmt: skip
        hub.VM_L2_CNTL.update(
            enable_l2_cache=True, enable_l2_fragment_processing=False,
            enable_default_page_out_to_system_memory=True, l2_pde0_cache_tag_generation_mode=0,
            pde_fault_classification=0, context1_identity_access_mode=1,
            identity_mode_fragment_size=0,
        )  # fmt: skip
        hub.VM_L2_CNTL2.update(invalidate_all_l1_tlbs=True, invalidate_l2_cache=True)
        hub.VM_L2_CNTL3.write(
            bank_select=9, l2_cache_bigk_fragment_size=6, l2_cache_bigk_associativity=1,
            l2_cache_4k_associativity=1,
        )  # fmt: skip
        hub.VM_L2_CNTL4.write(l2_cache_4k_partition_count=1)
        hub.VM_L2_CNTL5.write(walker_priority_client_id=0x1FF)
        hub.VM_CONTEXT0_PAGE_TABLE_START_ADDR.write(page=VA_BASE >> 12)
        hub.VM_CONTEXT0_PAGE_TABLE_END_ADDR.write(page=(VA_END - 1) >> 12)
        hub.VM_CONTEXT0_PAGE_TABLE_BASE_ADDR.write(valid=True, frame=layout.ROOT_TABLE >> 12)
        hub.VM_CONTEXT0_CNTL.write(
            enable_context=True,
            page_table_depth=LEVELS - 1,
            **{f"{kind}_protection_fault_enable_interrupt": True for kind in _FAULTS},
            **{f"{kind}_protection_fault_enable_default": True for kind in _FAULTS},
        )
        hub.VM_L2_CONTEXT1_IDENTITY_APERTURE_LOW_ADDR.write(page=_NOWHERE)
        hub.VM_L2_CONTEXT1_IDENTITY_APERTURE_HIGH_ADDR.write(0)
        hub.VM_L2_CONTEXT_IDENTITY_PHYSICAL_OFFSET.write(0)
        for engine in range(ENGINES):
            hub.VM_INVALIDATE_ENG_ADDR_RANGE[engine].write(_EVERYTHING)

    def invalidate(self) -> None:
        """Make the graphics hub forget its translations; entries must have been flushed."""
        hub = self.graphics
        hub.VM_INVALIDATE_ENG_REQ[DRIVER_ENGINE].write(_INVALIDATE)
        poll(
            hub.VM_INVALIDATE_ENG_ACK[DRIVER_ENGINE].read,
            lambda seen: seen.per_vmid_invalidate_ack & 1 == 1 and seen != 0xFFFF_FFFF,
            self._clock, 2.0, "the invalidation of address translations",
            self._registers.check_alive,
        )  # fmt: skip

    def fault(self) -> tuple[FaultStatus, int] | None:
        """The graphics hub's first fault since the last clear, with its address; None if none."""
        status = self.graphics.VM_L2_PROTECTION_FAULT_STATUS.read()
        if status == 0:
            return None
        page = self.graphics.VM_L2_PROTECTION_FAULT_ADDR.read().page
        return status, page << 12

    def clear_fault(self) -> None:
        self.graphics.VM_L2_PROTECTION_FAULT_CNTL.update(clear_protection_fault_status_addr=True)
