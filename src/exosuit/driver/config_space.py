"""Configuration space of a card: who it is, how it is woken, what a reset takes from it.

A reset, or the sleep of the computer, may take away the addresses that the system gave a card, and
not every system gives them back. So they are read first, and written again where they are lost.
"""

from __future__ import annotations

from exosuit.errors import BootFailed, LinkLost, UnsupportedCard
from exosuit.link.function import PciFunction
from exosuit.silicon import pci
from exosuit.silicon.pci_ids import vendor_name

_BAR_REGISTERS = range(0x10, 0x28, 4)


class ConfigSpace:
    """The function's configuration, with what a reset may take away.

    vendor  of the cards that the driver boots
    """

    def __init__(self, link: PciFunction, vendor: int) -> None:
        self._link = link
        self._vendor = vendor
        self._kept: dict[int, int] = {}

    def identify(self) -> tuple[int, int]:
        """Device id and revision. Raises LinkLost or UnsupportedCard."""
        identity = self._link.read_config(0, 4)
        if identity in (pci.ALL_ONES, pci.RETRY):
            raise LinkLost(
                f"no card answers at {self._link.name}",
                cause="the cable moved, the enclosure has no power, or the card has not started",
                next="reconnect it and switch the enclosure off and on, then  exosuit doctor",
                identity=identity,
            )
        vendor, device = identity & 0xFFFF, identity >> 16
        word = self._link.read_config(8, 4)
        if vendor != self._vendor or not pci.ClassCode(word >> 8).can_be_card:
            raise UnsupportedCard(
                f"{self._link.name} is {vendor:04x}:{device:04x}, {pci.ClassCode(word >> 8).title}",
                cause=f"this driver boots graphics cards of {vendor_name(self._vendor)}",
                next="exosuit list",
                vendor=vendor,
                device=device,
            )
        return device, word & 0xFF

    def wake(self) -> None:
        """Let the function answer at its addresses, and out of its sleep."""
        at = pci.find_capability(self._link.read_config, pci.CapabilityId.POWER_MANAGEMENT)
        if at is not None:
            control = pci.PowerControl(self._link.read_config(at + 4, 2))
            if control.state:
                self._link.write_config(at + 4, control.replace(state=0), 2)
        self._command(memory_space=True)
        self._kept = {at: self._link.read_config(at, 4) for at in _BAR_REGISTERS}
        if not any(self._kept.values()):
            raise BootFailed(
                f"the card {self._link.name} has no addresses on the bus",
                cause="it was reset, or woke from sleep, and nobody gave it its addresses back",
                next="restart the computer with the enclosure switched on, then  exosuit doctor",
            )

    def keep_awake(self) -> None:
        """No link power saving: through tunnels and retimers it makes reads fail now and then."""
        at = pci.find_capability(self._link.read_config, pci.CapabilityId.PCI_EXPRESS)
        if at is None:
            return
        place = at + pci.PcieCapability.SLOTS["link_control"].offset
        control = pci.LinkControl(self._link.read_config(place, 2))
        if control.aspm:
            self._link.write_config(place, control.replace(aspm=0), 2)

    def let_dma(self, allowed: bool) -> None:
        """Let the card reach host memory, or not."""
        self._command(bus_master=allowed)

    def restore(self) -> None:
        """Give back the addresses that a reset may have taken."""
        lost = [at for at, value in self._kept.items() if self._link.read_config(at, 4) != value]
        for at in lost:
            self._link.write_config(at, self._kept[at], 4)
        self._command(memory_space=True)

    def _command(self, **flags: int) -> None:
        before = pci.Command(self._link.read_config(4, 2))
        after = before.replace(**flags)
        if after != before:
            self._link.write_config(4, after, 2)
