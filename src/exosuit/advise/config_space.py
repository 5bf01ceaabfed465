"""The first 256 bytes of a card's configuration space, and what they say about its health.

They come as hexadecimal text: from sysfs, or read through the server of TinyGPU.app.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from exosuit.advise.checks import Ladder
from exosuit.silicon import pci


@dataclass(frozen=True)
class ConfigSpace:
    """Bytes as read; `data` holds at least the 64 bytes of the header."""

    data: bytes

    @classmethod
    def from_hex(cls, text: str) -> Self | None:
        """The bytes, or None if the text holds no whole header."""
        try:
            data = bytes.fromhex("".join(text.split()))
        except ValueError:
            return None
        return cls(data) if len(data) >= pci.ConfigHeader.SIZE else None

    def read(self, offset: int, size: int) -> int:
        """Little-endian; zero past what was read."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    @property
    def link(self) -> pci.Link | None:
        return pci.read_link(self.read)

    @property
    def is_dead(self) -> bool:
        """All ones: nobody answered."""
        return self.read(0, 4) == pci.ALL_ONES

    @property
    def is_busy(self) -> bool:
        """The function asks to be tried again after its reset."""
        return self.read(0, 4) == pci.RETRY

    @property
    def has_addresses(self) -> bool:
        """Whether the first BAR, which every card needs, has an address."""
        low = pci.MemoryBar(self.read(0x10, 4))
        high = self.read(0x14, 4) if low.kind == pci.BarType.BITS_64 else 0
        return low.address != 0 or high != 0

    @property
    def sleeps(self) -> bool:
        """D3: asleep, memory does not answer."""
        offset = pci.find_capability(self.read, pci.CapabilityId.POWER_MANAGEMENT)
        return offset is not None and pci.PowerControl(self.read(offset + 4, 2)).state == 3

    def check(self, ladder: Ladder, remedy: str) -> None:
        """Judge the layer "answer"; `remedy` is what to do when the card is gone."""
        if self.is_dead:
            ladder.fail(
                "answer", "configuration", "every read gives 0xffffffff",
                "the link is down: the cable moved, the box lost power, or the card crashed",
                remedy,
            )  # fmt: skip
            return
        if self.is_busy:
            ladder.fail(
                "answer", "configuration", "the card asks to be tried again (0xffff0001)",
                "it has not come out of its last reset", "wait 30 s, then  exosuit doctor",
            )  # fmt: skip
            return
        ids = f"{self.read(0, 2):04x}:{self.read(2, 2):04x}"
        ladder.ok("answer", "configuration", f"the card answers as {ids}")
        if self.sleeps:
            ladder.warn(
                "answer", "power", "the card sleeps (D3)", "nobody uses it",
                "nothing; exosuit wakes it",
            )  # fmt: skip
        if not self.has_addresses:
            ladder.fail(
                "answer", "addresses", "the card has no addresses on the bus (BAR 0 is empty)",
                "it was reset, or woke from sleep, and its BARs were not restored", remedy,
            )  # fmt: skip
            return
        ladder.ok("answer", "addresses", "BAR 0 is assigned")
        command = pci.Command(self.read(4, 2))
        if not (command.memory_space and command.bus_master):
            off = [
                name
                for name, on in (
                    ("memory", command.memory_space),
                    ("bus mastering", command.bus_master),
                )
                if not on
            ]
            ladder.warn(
                "answer", "command register", f"{' and '.join(off)} off",
                "the last client closed the card, which switches them off",
                "nothing; exosuit switches them on when it opens the card",
            )  # fmt: skip
        else:
            ladder.ok("answer", "command register", "memory and bus mastering are on")
