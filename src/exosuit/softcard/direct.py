"""The seam straight onto a software card in this process: no socket, no copy, no other thread."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.errors import LinkError
from exosuit.link.function import (
    Closing,
    Counters,
    Data,
    check_access,
    check_config,
)
from exosuit.link.mapped import MappedMemory
from exosuit.softcard.card import SoftCard
from exosuit.softcard.host import Mapping


class DirectBar:
    """One BAR of a software card."""

    def __init__(self, card: SoftCard, index: int, counters: Counters) -> None:
        self._card = card
        self.index = index
        self.address = card.config.address(index)
        self.size = card.bar_size(index)
        self._counters = counters
        self._title = f"BAR {index}"

    def read32(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))

    def write64(self, offset: int, value: int) -> None:
        check_access(self._title, self.size, offset, 8, 8)
        self.write(offset, value.to_bytes(8, "little"))

    def read(self, offset: int, size: int) -> bytes:
        check_access(self._title, self.size, offset, size)
        self._counters.reads += 1
        self._counters.round_trips += 1
        self._counters.bytes_read += size
        return bytes(self._card.read_bar(self.index, offset, size))

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self.read(offset, len(target))

    def write(self, offset: int, data: Data) -> None:
        check_access(self._title, self.size, offset, len(data))
        self._counters.writes += 1
        self._counters.bytes_written += len(data)
        self._card.write_bar(self.index, offset, data)


class PolledMemory(MappedMemory):
    """DMA memory beside its card: looking at it lets an engine that waits for it run."""

    def __init__(
        self, card: SoftCard, mapping: Mapping, size: int, free: Callable[[], None]
    ) -> None:
        super().__init__(mapping.view[:size], mapping.segments, free)
        self._card = card

    def read32(self, offset: int) -> int:
        self._let_run()
        return super().read32(offset)

    def read(self, offset: int, size: int) -> bytes:
        self._let_run()
        return super().read(offset, size)

    def read_into(self, offset: int, target: memoryview) -> None:
        self._let_run()
        super().read_into(offset, target)

    def _let_run(self) -> None:
        if self._card.waiting:
            self._card.run()


class DirectLink(Closing):
    """A `PciFunction` over a card that this process holds. Closing it leaves the card as it is."""

    def __init__(self, card: SoftCard) -> None:
        self.card = card
        self.name = card.name
        self.counters = Counters()
        self._mappings: list[int] = []

    def read_config(self, offset: int, size: int) -> int:
        check_config(offset, size)
        self.counters.round_trips += 1
        return self.card.read_config(offset, size)

    def write_config(self, offset: int, value: int, size: int) -> None:
        check_config(offset, size)
        self.counters.round_trips += 1
        self.card.write_config(offset, value, size)

    def bar(self, index: int) -> DirectBar:
        if not self.card.bar_size(index):
            raise LinkError(
                f"{self.name} has no BAR {index}",
                cause=f"its BARs are {', '.join(map(str, self.card.config.shapes))}",
                next="exosuit doctor",
                bar=index,
            )
        return DirectBar(self.card, index, self.counters)

    def resize_bar(self, index: int) -> int:
        self.counters.round_trips += 1
        self.card.resize_bar(index)
        return self.bar(index).size

    def allocate_dma(self, size: int, *, contiguous: bool = False) -> MappedMemory:
        self.counters.round_trips += 1
        mapping = self.card.host.map(size, contiguous=contiguous)
        self._mappings.append(mapping.handle)

        def free() -> None:
            if mapping.handle in self.card.host.mappings:
                self.card.host.unmap(mapping.handle)

        return PolledMemory(self.card, mapping, size, free)

    def reset(self) -> None:
        self.counters.round_trips += 1
        self.card.reset()

    def close(self) -> None:
        """Unmap this client's DMA memory; idempotent."""
        while self._mappings:
            handle = self._mappings.pop()
            if handle in self.card.host.mappings:
                self.card.host.unmap(handle)
