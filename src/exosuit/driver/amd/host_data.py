"""What the host itself puts into local memory: boot objects and page tables, through BAR 0.

Such writes pass through HDP on the card and are flushed before anybody there reads them. Where the
window is small it still shows everything that is written this way.
"""

from __future__ import annotations

from exosuit.driver.amd.registers import Registers
from exosuit.link.function import Bar, Data
from exosuit.silicon.amd.nbio import HDP_FLUSH_OFFSET
from exosuit.units import VramAddress


class HostData:
    """Local memory as the host writes it.

    window    BAR 0
    mc_base   MC address of the first byte of local memory
    """

    def __init__(self, registers: Registers, register_bar: Bar, window: Bar, mc_base: int) -> None:
        self._registers = registers
        self._register_bar = register_bar
        self.window = window
        self.mc_base = mc_base

    def mc(self, address: VramAddress) -> int:
        """The MC address, by which firmware and interrupt rings name local memory."""
        return self.mc_base + address

    def write(self, address: VramAddress, data: Data) -> None:
        self.window.write(address, data)

    def read(self, address: VramAddress, size: int) -> bytes:
        return self.window.read(address, size)

    def read32(self, address: VramAddress) -> int:
        return self.window.read32(address)

    def flush(self) -> None:
        """Make what was written visible to the card."""
        self._register_bar.write32(HDP_FLUSH_OFFSET, 0)

    def place_flush(self) -> None:
        """Put the flush register where `flush` expects it; a reset moves it."""
        self._registers.nbio.BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL.write(HDP_FLUSH_OFFSET)
