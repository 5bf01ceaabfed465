"""The interrupt ring: reports written to local or to host memory, for whoever reads."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.link.function import Data
from exosuit.silicon.amd import ih as chip
from exosuit.silicon.amd.ih import Client, Entry, EntryHeader, RingControl, Source, WritePointer
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.host import HostFault
from exosuit.softcard.registers import Refuse, RegisterFile


class Ih:
    """Ring 0. Reports are lost while it is off, and when it is full, with the overflow bit set.

    clock      the card's 100 MHz counter
    dma_write  writes host memory; raises HostFault where it may not
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: LocalMemory,
        refuse: Refuse,
        clock: Callable[[], int],
        dma_write: Callable[[int, Data], None],
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._refuse = refuse
        self._clock = clock
        self._dma_write = dma_write
        self.reported = 0
        registers.on_write("IH_RB_CNTL", self._control)

    def report(
        self,
        client: Client,
        source: Source,
        *,
        vmid: int = 0,
        memory_hub: bool = False,
        contexts: tuple[int, int] = (0, 0),
    ) -> None:
        """Write one entry and move the write pointer."""
        control = RingControl(self._registers.get("IH_RB_CNTL"))
        if not control.rb_enable:
            return
        size = 4 << control.rb_size
        at = self._registers.get("IH_RB_BASE") << 8
        write = self._registers.get("IH_RB_WPTR") & (size - 1) & ~3
        following = (write + chip.ENTRY_BYTES) & (size - 1)
        if following == self._registers.get("IH_RB_RPTR"):
            self._registers.put("IH_RB_WPTR", WritePointer(write, rb_overflow=True))
            return
        now = self._clock()
        entry = Entry.make(
            header=EntryHeader(client=client, source=source, vmid=vmid, vmid_type=memory_hub),
            timestamp_low=now & 0xFFFF_FFFF,
            timestamp_high=now >> 32 & 0xFFFF,
            context0=contexts[0],
            context1=contexts[1],
        )
        if not self._store(control, at + write, bytes(entry)):
            return
        self._registers.put("IH_RB_WPTR", following)
        self.reported += 1
        if control.wptr_writeback_enable:
            low = self._registers.get("IH_RB_WPTR_ADDR_LO")
            where = low | self._registers.get("IH_RB_WPTR_ADDR_HI") << 32
            self._store(control, where & ~3, following.to_bytes(4, "little"))

    def _store(self, control: RingControl, at: int, data: bytes) -> bool:
        """Write to where the ring is: on the bus, or at an MC address; whether that worked."""
        if control.mc_space == chip.BUS_ADDRESS:
            try:
                self._dma_write(at, data)
            except HostFault as fault:
                self._refuse(f"an interrupt ring in host memory: {fault}")
                return False
            return True
        place = self._memory.at_mc(at, len(data))
        if place is None:
            self._refuse(f"an interrupt ring at {at:#x}, outside local memory")
            return False
        place[:] = data
        return True

    def _control(self, index: int, value: int) -> int:
        control = RingControl(value)
        if control.wptr_overflow_clear:
            pointer = WritePointer(self._registers.get("IH_RB_WPTR"))
            self._registers.put("IH_RB_WPTR", pointer.replace(rb_overflow=False))
        return value
