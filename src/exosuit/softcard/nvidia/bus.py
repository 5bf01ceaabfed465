"""The bus as an NVIDIA card masters it: host memory, and its own window by the bus address of it.

A driver may put what the firmware reads into local memory and name it by where BAR 1 lies on the
bus; such a request comes back to the card. A request that reaches nothing that was mapped is what
takes a Mac down, so it is noted as a panic of the host.
"""

from __future__ import annotations

from exosuit.link.function import Data
from exosuit.silicon.nvidia.boot import VRAM_BAR
from exosuit.softcard.card import SoftCard
from exosuit.softcard.host import HostFault
from exosuit.softcard.memory import host_address


class Bus:
    """DMA of one card; `panics` are requests of a driver's making that reached nothing."""

    def __init__(self, card: SoftCard, memory: memoryview) -> None:
        self._card = card
        self._memory = memory
        self.panics: list[str] = []

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a bus address. Raises HostFault."""
        parts = self.reach(address, size)
        self._card.meter.dma_read(size)
        return b"".join(parts)

    def write(self, address: int, data: Data) -> None:
        """Write at a bus address, posted. Raises HostFault."""
        view = memoryview(data)
        parts = self.reach(address, len(view))
        self._card.meter.dma_write(len(view))
        for part in parts:
            part[:] = view[: len(part)]
            view = view[len(part) :]

    def reach(self, address: int, size: int) -> list[memoryview]:
        """What lies at a bus address, as the card may touch it now. Raises HostFault."""
        own = self._own(address, size)
        if own is not None:
            return [own]
        card = self._card
        excused = card.has_dma_fault or card.unplugged or not card.config.command.bus_master
        excused = excused or not card.host.mappings  # its client was killed: nobody is to blame
        try:
            return card.reach(address, size)
        except HostFault:
            if not excused:
                self.panic(f"DMA of {size} bytes at {address:#x}, where nothing is mapped")
            raise

    def pieces(self, address: int, size: int) -> list[tuple[int, int]]:
        """Addresses in this process, and lengths, of what is mapped at a bus address, untouched.

        Raises HostFault where part of it is not mapped.
        """
        own = self._own(address, size)
        parts = [own] if own is not None else self._card.host.parts(address, size)
        return [(host_address(part), len(part)) for part in parts]

    def allow(self, address: int, size: int) -> None:
        """Let the card at host memory whose place is known already. Raises HostFault."""
        card = self._card
        if card.take_dma_fault() or not card.config.command.bus_master:
            raise HostFault(address, size)

    def panic(self, what: str) -> None:
        """Note what a host would not have survived."""
        self.panics.append(what)
        self._card.refuse(what)

    def _own(self, address: int, size: int) -> memoryview | None:
        config = self._card.config
        offset = address - config.address(VRAM_BAR)
        if not config.command.bus_master or not 0 <= offset <= config.size(VRAM_BAR) - size:
            return None
        return self._memory[offset : offset + size]
