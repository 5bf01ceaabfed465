"""The interrupt ring: reports written to local memory, for whoever reads."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.silicon.amd import ih as chip
from exosuit.silicon.amd.ih import Client, Entry, EntryHeader, RingControl, Source, WritePointer
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.registers import Refuse, RegisterFile


class Ih:
    """Ring 0. Reports are lost while it is off, and when it is full, with the overflow bit set.

    clock  the card's 100 MHz counter
    """

    def __init__(
        self,
        registers: RegisterFile,
        memory: LocalMemory,
        refuse: Refuse,
        clock: Callable[[], int],
    ) -> None:
        self._registers = registers
        self._memory = memory
        self._refuse = refuse
        self._clock = clock
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
        ring = self._memory.at_mc(at, size)
        if ring is None:
            self._refuse(f"an interrupt ring at {at:#x}, outside local memory")
            return
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
        ring[write : write + chip.ENTRY_BYTES] = bytes(entry)
        self._registers.put("IH_RB_WPTR", following)
        self.reported += 1
        if control.wptr_writeback_enable:
            self._write_back(following)

    def _write_back(self, pointer: int) -> None:
        low = self._registers.get("IH_RB_WPTR_ADDR_LO")
        at = low | self._registers.get("IH_RB_WPTR_ADDR_HI") << 32
        place = self._memory.at_mc(at & ~3, 4)
        if place is not None:
            place[:] = pointer.to_bytes(4, "little")

    def _control(self, index: int, value: int) -> int:
        control = RingControl(value)
        if control.wptr_overflow_clear:
            pointer = WritePointer(self._registers.get("IH_RB_WPTR"))
            self._registers.put("IH_RB_WPTR", pointer.replace(rb_overflow=False))
        return value
