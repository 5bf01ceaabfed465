"""What each family of chips tolerates: as data, with who reported it.

Boots that fail for real people fail for reasons that no header tells: a link that is retrained and
never comes back, a firmware that cannot be started twice, a reset that hangs. What is known of that
stands here, one row for each family, and nothing of it in the boot's code.

Sources: reports to tinygrad 15605, 15638, 15652, 15813, 16454, 18215, NVIDIA/open-gpu-kernel-
modules 979; Linux `quirk_no_flr` (2b85, 2b87, 2b8c); the registry's names as in the public driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exosuit.silicon.nvidia.chips import Architecture

SAFE_BURST_BYTES = 1024
"""Posted writes to VRAM after which a tunnelled link is given time: more at once dropped links
behind Intel's Thunderbolt bridges (tinygrad 15638, 15813)."""

_REGISTRY = {"RMForcePcieConfigSave": 1, "RMSecBusResetEnable": 1}
"""What tinygrad's proven boot sends."""


@dataclass(frozen=True)
class Policy:
    """How the cards of a family are treated.

    unload_at_exit  whether the firmware is told to end when the driver does; else it stays, without
                    a way to the host's memory, and the next driver resets the card
    settle_s        how long a card takes after a reset before its registers are read
    registry        for the firmware, always
    pinned_link     for the firmware as well, where the card is behind Intel's Thunderbolt bridge:
                    it must not retrain the link, which would not come back. It keeps the link slow
                    (about 0.9 GB/s) and lasts until the enclosure is switched off
    burst_bytes     most bytes written to VRAM in a row; in a slot the reads between cost nothing
    """

    unload_at_exit: bool
    settle_s: float = 0.1
    registry: Mapping[str, int] = field(default_factory=lambda: _REGISTRY)
    pinned_link: Mapping[str, int] = field(default_factory=dict[str, int])
    burst_bytes: int = SAFE_BURST_BYTES


_PINNED = {"RMPcieLinkSpeed": 0x8000_02AA, "PCIEPowerControl": 3}

POLICIES: Mapping[Architecture, Policy] = {
    Architecture.AMPERE: Policy(unload_at_exit=True, pinned_link=_PINNED),
    Architecture.ADA: Policy(unload_at_exit=True, pinned_link=_PINNED),
    # Not unloaded: after a clean unload the next boot's message to the FSP goes unanswered.
    # The link is not pinned: on these the keys do harm.
    Architecture.BLACKWELL_2: Policy(unload_at_exit=False, settle_s=0.5),
}
"""Families that are booted."""
