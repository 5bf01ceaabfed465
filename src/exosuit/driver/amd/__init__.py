"""AMD cards: a PCI function becomes a `Device`; see `card` for the boot, `device` for the rest."""

from exosuit.driver.amd.card import Card
from exosuit.driver.amd.device import AmdDevice

__all__ = ["AmdDevice", "Card"]
