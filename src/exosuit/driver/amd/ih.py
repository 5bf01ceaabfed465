"""The interrupt ring, kept in host memory and polled: faults cost no read over the link.

The card writes each report into the ring and then its write pointer into a word beside it; the
host looks at that word whenever it looks at a signal. No interrupt need reach the host. Linux puts
the ring into host memory too; other user-space drivers leave it on the card and read a register.

Sources: Linux `ih_v6_0.c`, `ih_v7_0.c`.
"""

from __future__ import annotations

from exosuit.driver.amd.registers import Registers
from exosuit.link.function import DmaMemory
from exosuit.silicon.amd.ih import BUS_ADDRESS, ENTRY_BYTES, Entry, RingControl, WritePointer
from exosuit.units import KiB

RING_BYTES = 64 * KiB


class InterruptRing:
    """Ring 0 of one card, over contiguous DMA memory of `RING_BYTES`.

    pointer  DMA memory in which the card writes its write pointer, at `pointer_offset`
    """

    def __init__(
        self, registers: Registers, ring: DmaMemory, pointer: DmaMemory, pointer_offset: int
    ) -> None:
        self._ih = registers.ih
        self._ring = ring
        self._pointer = pointer
        self._pointer_offset = pointer_offset
        self._read = 0

    def start(self) -> None:
        """Point the card at the ring and let it report."""
        self._pointer.write32(self._pointer_offset, 0)
        self._read = 0
        control = RingControl(
            rb_size=(RING_BYTES // 4).bit_length() - 1,
            wptr_writeback_enable=True,
            wptr_overflow_enable=True,
            wptr_overflow_clear=True,
            mc_snoop=True,
            rptr_rearm=True,
            mc_space=BUS_ADDRESS,
        )
        where = self._pointer.bus_address(self._pointer_offset)
        self._ih.IH_RB_CNTL.write(control)
        self._ih.IH_RB_BASE.write(address=self._ring.bus_address() >> 8)
        self._ih.IH_RB_WPTR_ADDR_LO.write(where & 0xFFFF_FFFF)
        self._ih.IH_RB_WPTR_ADDR_HI.write(where >> 32)
        self._ih.IH_RB_WPTR.write(0)
        self._ih.IH_RB_RPTR.write(0)
        self._ih.IH_DOORBELL_RPTR.write(0)
        self._ih.IH_RB_CNTL.write(
            control.replace(wptr_overflow_clear=False, rb_enable=True, enable_intr=True)
        )
        self._ih.IH_STORM_CLIENT_LIST_CNTL.update(clients=1 << 17)
        self._ih.IH_INT_FLOOD_CNTL.update(flood_cntl_enable=True)
        self._ih.IH_MSI_STORM_CTRL.update(delay=3)

    def stop(self) -> None:
        """The card writes no more reports."""
        self._ih.IH_RB_CNTL.write(0)

    def has_reports(self, pointer: int) -> bool:
        """Whether there is something to take, given the word that the card wrote."""
        return WritePointer(pointer).offset * 4 != self._read

    def take(self) -> list[Entry]:
        """The reports since the last time."""
        write = WritePointer(self._pointer.read32(self._pointer_offset)).offset * 4
        found: list[Entry] = []
        while self._read != write % RING_BYTES:
            found.append(Entry(self._ring.read(self._read, ENTRY_BYTES)))
            self._read = (self._read + ENTRY_BYTES) % RING_BYTES
        if found:
            self._ih.IH_RB_RPTR.write(self._read)
        return found
