"""The card's PCIe end: windows to registers and memory, the HDP flush, the routing of doorbells."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.link.function import Data
from exosuit.silicon.amd.nbio import DoorbellAperture, DoorbellEntry, MemoryIndex
from exosuit.softcard.amd.memory import LocalMemory
from exosuit.softcard.registers import Refuse, RegisterFile
from exosuit.units import MiB

CP_ENTRIES = (0, 3)
SDMA_ENTRY = 2


class Nbio:
    """Registers of NBIO that act, and the two BARs that are not memory."""

    def __init__(self, registers: RegisterFile, memory: LocalMemory, refuse: Refuse) -> None:
        self._registers = registers
        self._memory = memory
        self._refuse = refuse
        self.flushes = 0
        self.unflushed = False
        read, write = registers.on_read, registers.on_write
        read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE", lambda index, stored: memory.size // MiB)
        read("BIF_BX0_MM_DATA", lambda index, stored: memory.read32(self._memory_offset()))
        write("BIF_BX0_MM_DATA", self._write_memory)
        for pointer, data in (
            ("BIF_BX_PF0_RSMU_INDEX", "BIF_BX_PF0_RSMU_DATA"),
            ("BIF_BX0_PCIE_INDEX2", "BIF_BX0_PCIE_DATA2"),
        ):
            read(data, lambda _, stored, name=pointer: registers.read32(registers.get(name)))
            write(data, lambda _, value, name=pointer: self._write_register(name, value))
        write("BIF_BX_PF0_GPU_HDP_FLUSH_REQ", self._request_flush)
        read("BIF_BX_PF0_GPU_HDP_FLUSH_DONE", lambda index, stored: 0xFFFF_FFFF)

    def wrote_memory(self) -> None:
        """The host has written through BAR 0: the bytes are in HDP until somebody flushes it."""
        self.unflushed = True

    def flush(self) -> None:
        """What the host wrote through BAR 0 is in memory now."""
        self.flushes += 1
        self.unflushed = False

    def expect_flushed(self, what: str) -> None:
        """Note that an engine looks at memory that the host has written and not flushed.

        It finds the bytes all the same: here they are in memory at once.
        """
        if self.unflushed:
            self.unflushed = False  # said once
            self._refuse(f"{what} after writes through BAR 0 without an HDP flush")

    @property
    def flush_offset(self) -> int:
        """Where in BAR 5 a write flushes."""
        return self._registers.get("BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL")

    def hears(self, slot: int, entries: tuple[int, ...]) -> bool:
        """Whether the doorbell in this 64-bit slot reaches the block behind one of the entries."""
        aperture = DoorbellAperture(self._registers.get("RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN"))
        if not aperture.bif_doorbell_aper_en:
            return False
        for index in entries:
            entry = DoorbellEntry(self._registers.get("S2A_DOORBELL_ENTRY_CTRL", index))
            first, size = entry.range_offset, entry.range_size
            if entry.enable and first <= 2 * slot and (size == 0 or 2 * slot < first + size):
                return True
        return False

    def _memory_offset(self) -> int:
        low = MemoryIndex(self._registers.get("BIF_BX0_MM_INDEX"))
        if not low.enable:
            self._refuse("an access by MM_DATA with bit 31 of MM_INDEX clear")
        return low.address | self._registers.get("BIF_BX0_MM_INDEX_HI") << 31

    def _write_memory(self, index: int, value: int) -> int:
        self._memory.write32(self._memory_offset(), value)
        return value

    def _write_register(self, pointer: str, value: int) -> int:
        self._registers.write32(self._registers.get(pointer), value)
        return value

    def _request_flush(self, index: int, engines: int) -> int:
        self.flush()
        return engines


class RegisterWindow:
    """BAR 5: the first registers, four bytes at a time, and the flush register among them."""

    def __init__(self, registers: RegisterFile, nbio: Nbio, refuse: Refuse) -> None:
        self._registers = registers
        self._nbio = nbio
        self._refuse = refuse

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        if offset % 4 or size != 4:
            self._refuse(f"a read of {size} bytes at {offset:#x} of registers")
            return b"\xff" * size
        if offset == self._nbio.flush_offset:
            return bytes(4)
        return self._registers.read32(offset).to_bytes(4, "little")

    def write(self, offset: int, data: Data) -> None:
        if offset % 4 or len(data) != 4:
            self._refuse(f"a write of {len(data)} bytes at {offset:#x} of registers")
        elif offset == self._nbio.flush_offset:
            self._nbio.flush()
        else:
            self._registers.write32(offset, int.from_bytes(data, "little"))


class DoorbellWindow:
    """BAR 2: a 64-bit write at 8 times the slot rings it."""

    def __init__(self, ring: Callable[[int, int], None], refuse: Refuse) -> None:
        self._ring = ring
        self._refuse = refuse

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def write(self, offset: int, data: Data) -> None:
        if offset % 8 or len(data) != 8:
            self._refuse(f"a doorbell write of {len(data)} bytes at {offset:#x}")
            return
        self._ring(offset // 8, int.from_bytes(data, "little"))
