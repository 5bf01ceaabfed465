"""Virtual time: what each access would have cost over a real link.

A link is described by four numbers; a meter adds them up. Nothing ever waits: the modelled seconds
are a count, as exact on a slow laptop as on a fast one.

Sources: usable bandwidths as measured by users of boxes (users.md C2: Thunderbolt 3/4 and USB4
tunnels 2.5 to 3.1 GB/s, Thunderbolt 5 about 6, a tunnel pinned to Gen1 0.8 to 0.9, a x16 Gen4 slot
about 25); 110 MB/s early and about 1 GB/s in theory for USB3 bridges. Round trips: PCIe root port
to endpoint about 1 us in a slot, 2 to 3 us through a tunnel; the USB bridge answers in a few
microframes of 125 us. Latencies are `assumed`: nobody's tables have them.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.errors import UsageError


@dataclass(frozen=True, slots=True)
class LinkModel:
    """One kind of link.

    read_ns      a read of a register, there and back
    write_ns     a posted write of a few bytes: what it takes of the wire, not of the waiter
    bandwidth    bytes per second of bulk data in one direction
    dma_read_ns  the card's own read of host memory, there and back, paid once per request
    """

    name: str
    title: str
    read_ns: float
    write_ns: float
    bandwidth: float
    dma_read_ns: float


MODELS = {
    model.name: model
    for model in (
        LinkModel("slot", "PCIe x16 Gen4 slot", 1_000, 20, 25e9, 800),
        LinkModel("tb3", "Thunderbolt 3", 3_000, 60, 2.7e9, 2_500),
        LinkModel("tb4", "Thunderbolt 4", 2_800, 60, 2.8e9, 2_300),
        LinkModel("usb4", "USB4 40 Gb/s", 2_800, 60, 2.8e9, 2_300),
        LinkModel("tb5", "Thunderbolt 5", 2_400, 40, 6.0e9, 2_000),
        LinkModel("gen1", "Thunderbolt pinned to Gen1", 3_500, 150, 0.88e9, 3_000),
        LinkModel("usb3", "USB3 bridge", 250_000, 30_000, 0.9e9, 250_000),
    )
}


def find_model(name: str) -> LinkModel:
    """The model of this name. Raises UsageError with the names that there are."""
    model = MODELS.get(name)
    if model is None:
        raise UsageError(
            f"there is no link model called {name!r}",
            cause=f"the models are {', '.join(MODELS)}",
            next="exosuit softcard generic --link tb4",
            name=name,
        )
    return model


@dataclass(slots=True)
class Meter:
    """Virtual nanoseconds and plain counts of everything that crossed the link of one card."""

    model: LinkModel
    now_ns: float = 0.0
    reads: int = 0
    writes: int = 0
    config_accesses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    dma_bytes_read: int = 0
    dma_bytes_written: int = 0

    def config(self) -> None:
        self.config_accesses += 1
        self.now_ns += self.model.read_ns

    def read(self, size: int) -> None:
        """The host reads `size` bytes of a BAR and waits."""
        self.reads += 1
        self.bytes_read += size
        self.now_ns += self.model.read_ns + self._data(size)

    def write(self, size: int) -> None:
        """The host writes `size` bytes to a BAR and does not wait."""
        self.writes += 1
        self.bytes_written += size
        self.now_ns += max(self.model.write_ns, self._data(size))

    def dma_read(self, size: int) -> None:
        """The card reads host memory."""
        self.dma_bytes_read += size
        self.now_ns += self.model.dma_read_ns + self._data(size)

    def dma_write(self, size: int) -> None:
        """The card writes host memory, posted."""
        self.dma_bytes_written += size
        self.now_ns += max(self.model.write_ns, self._data(size))

    def _data(self, size: int) -> float:
        return size / self.model.bandwidth * 1e9
