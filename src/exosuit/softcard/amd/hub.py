"""A memory hub: apertures, context 0, invalidation engines, and the report of what goes wrong."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.amd.hub import (
    Client,
    ContextControl,
    FaultControl,
    FaultStatus,
    InvalidateRequest,
    PageTableBase,
    WalkerError,
)
from exosuit.silicon.amd.hub import Hub as HubRegisters
from exosuit.silicon.amd.ih import Client as Reporter
from exosuit.silicon.amd.ih import FaultContext1, Source
from exosuit.silicon.amd.paging import PAGE
from exosuit.softcard.amd.ih import Ih
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.amd.walker import EXECUTE, READ, WRITE, Context, Failure, Run, Walker
from exosuit.softcard.memory import host_address
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.units import round_up

APERTURE_UNIT = 18
"""Bounds of the system aperture are held >> 18."""


class Hub:
    """GC or MM.

    invalidate  called when translations of VMID 0 must be forgotten
    expect_flushed  called where writes through BAR 0 must have reached memory
    can_master  whether the card may reach the host's memory
    fails       whether the next translation is to find nothing
    """

    def __init__(
        self,
        registers: RegisterFile,
        described: type[HubRegisters],
        memory: LocalMemory,
        walker: Walker,
        ih: Ih,
        refuse: Refuse,
        *,
        invalidate: Callable[[], None],
        can_master: Callable[[], bool],
        fails: Callable[[], bool],
        expect_flushed: Callable[[str], None],
    ) -> None:
        self._registers = registers
        self._prefix = described.PREFIX
        self._described = described
        self._memory = memory
        self._walker = walker
        self._ih = ih
        self._refuse = refuse
        self._invalidate = invalidate
        self._can_master = can_master
        self._fails = fails
        self._expect_flushed = expect_flushed
        self._semaphores: set[int] = set()
        self._spare = bytearray(2 * PAGE)
        self.faults = 0
        prefix = self._prefix
        registers.on_write(prefix + "VM_INVALIDATE_ENG_REQ", self._request)
        registers.on_read(prefix + "VM_INVALIDATE_ENG_SEM", self._take)
        registers.on_write(prefix + "VM_INVALIDATE_ENG_SEM", self._give)
        registers.on_write(prefix + "VM_L2_PROTECTION_FAULT_CNTL", self._fault_control)
        self.power_on()

    def power_on(self) -> None:
        self._semaphores.clear()
        top = self._memory.mc_base + self._memory.size - 1 >> 24
        self._put("MC_VM_FB_LOCATION_BASE", self._memory.mc_base >> 24)
        self._put("MC_VM_FB_LOCATION_TOP", top)

    def why_off(self) -> str:
        """Why addresses of VMID 0 cannot be translated, or nothing."""
        context = self.context()
        if not context.control.enable_context:
            return f"context 0 of the {self._prefix} hub is not enabled"
        if not context.base.valid:
            return f"context 0 of the {self._prefix} hub has no page table"
        return ""

    def context(self) -> Context:
        return Context(
            self._kind("VM_CONTEXT0_CNTL")(self._get("VM_CONTEXT0_CNTL")),
            PageTableBase(self._get("VM_CONTEXT0_PAGE_TABLE_BASE_ADDR")),
            self._get("VM_CONTEXT0_PAGE_TABLE_START_ADDR") * PAGE,
            self._get("VM_CONTEXT0_PAGE_TABLE_END_ADDR") * PAGE + PAGE - 1,
        )

    def translate(self, address: int, access: int, client: Client) -> Run | None:
        """Where a page is; None once a fault is reported, and the dummy page is to be used."""
        if self._fails():
            self._fault(address, access, client, Failure(WalkerError.NONE, 1 | access << 1))
            return None
        low = self._get("MC_VM_SYSTEM_APERTURE_LOW_ADDR") << APERTURE_UNIT
        high = (self._get("MC_VM_SYSTEM_APERTURE_HIGH_ADDR") + 1) << APERTURE_UNIT
        if low <= address < high:
            offset = (address - self._memory.mc_base) & -PAGE
            if 0 <= offset < self._memory.size:
                host = self._memory.host_base + offset
                return Run(address // PAGE, (host,), READ | WRITE | EXECUTE, system=False)
        found = self._walker.walk(self.context(), address, access, dma=self._can_master())
        if isinstance(found, Run):
            return found
        self._fault(address, access, client, found)
        return None

    def dummy_page(self) -> int:
        """Host address of the page that failing accesses are turned to."""
        offset = self._get("VM_L2_PROTECTION_FAULT_DEFAULT_ADDR") * PAGE
        if 0 < offset <= self._memory.size - PAGE:
            return self._memory.host_base + offset
        return round_up(host_address(memoryview(self._spare)), PAGE)

    def _fault(self, address: int, access: int, client: Client, failure: Failure) -> None:
        self.faults += 1
        kind = self._kind("VM_L2_PROTECTION_FAULT_STATUS")
        status = FaultStatus(self._get("VM_L2_PROTECTION_FAULT_STATUS") & 0xFFFF_FFFF)
        if status:
            self._put("VM_L2_PROTECTION_FAULT_STATUS", status.replace(more_faults=True))
        else:
            new = kind(
                walker_error=failure.error,
                permission_faults=failure.permissions,
                mapping_error=failure.mapping,
                cid=client,
                rw=bool(access & WRITE),
            )
            self._put("VM_L2_PROTECTION_FAULT_STATUS", new)
            self._put("VM_L2_PROTECTION_FAULT_ADDR", address // PAGE)
        control = self.context().control
        if _wants_interrupt(control, failure, access):
            page = address // PAGE
            self._ih.report(
                Reporter.VMC if self._prefix == "MM" else Reporter.GFX,
                Source.PAGE_FAULT,
                memory_hub=self._prefix == "MM",
                contexts=(page & 0xFFFF_FFFF, FaultContext1(address_high=page >> 32 & 0xF)),
            )

    def _request(self, index: int, value: int) -> int:
        request = InvalidateRequest(value)
        if request.per_vmid_invalidate_req & 1:
            self._expect_flushed("an invalidation of translations")
            self._invalidate()
        if request.clear_protection_fault_status_addr:
            self._clear_fault()
        self._put("VM_INVALIDATE_ENG_ACK", request.per_vmid_invalidate_req, index)
        return value

    def _take(self, index: int, stored: int) -> int:
        if index in self._semaphores:
            return 0
        self._semaphores.add(index)
        return 1

    def _give(self, index: int, value: int) -> int:
        if not value & 1:
            self._semaphores.discard(index)
        return value

    def _fault_control(self, index: int, value: int) -> int:
        control = FaultControl(value)
        if control.clear_protection_fault_status_addr:
            self._clear_fault()
        return control.replace(clear_protection_fault_status_addr=False)

    def _clear_fault(self) -> None:
        self._put("VM_L2_PROTECTION_FAULT_STATUS", 0)
        self._put("VM_L2_PROTECTION_FAULT_ADDR", 0)

    def _kind(self, name: str) -> type:
        return self._described.REGISTERS[name].kind

    def _get(self, name: str) -> int:
        return self._registers.get(self._prefix + name)

    def _put(self, name: str, value: int, index: int = 0) -> None:
        self._registers.put(self._prefix + name, value, index)


def _wants_interrupt(control: ContextControl, failure: Failure, access: int) -> bool:
    if failure.mapping:
        return bool(
            control.range_protection_fault_enable_interrupt
            or control.pde0_protection_fault_enable_interrupt
        )
    if failure.permissions & 1:
        return bool(control.valid_protection_fault_enable_interrupt)
    if access & WRITE:
        return bool(control.write_protection_fault_enable_interrupt)
    if access & EXECUTE:
        return bool(control.execute_protection_fault_enable_interrupt)
    return bool(control.read_protection_fault_enable_interrupt)
