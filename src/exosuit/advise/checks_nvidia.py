"""What is looked at for NVIDIA cards on any system: the window onto memory, bridges, the driver.

Facts come as numbers; where they were read is the business of `checks_macos` and `checks_linux`.
"""

from __future__ import annotations

from collections.abc import Iterable

from exosuit.advise.checks import Ladder
from exosuit.silicon.nvidia.boot import SMALL_VRAM_BAR
from exosuit.silicon.nvidia.branches import BRANCHES, branch_of
from exosuit.silicon.pci_ids import Identity
from exosuit.units import MiB, human_bytes

LEAST_WINDOW = 64 * MiB
"""Of BAR 1, for queues, launch data and a staging area."""
WINDOW_REGISTER = 0x14
"""Of BAR 1 in the configuration space: BAR 0 takes one register."""
INTEL_BRIDGES = frozenset({(0x8086, 0x5786)})
"""Thunderbolt 5 bridges (Barlow Ridge) that lose the link when a card's firmware retrains it."""
PINNED = frozenset({"Ampere", "Ada"})
"""Families whose firmware is told to leave the link alone behind such a bridge."""


def check_window(size: int, ladder: Ladder, remedy: str) -> None:
    """Judge BAR 1, of which `size` bytes have an address; 0 for none."""
    if size == 0:
        ladder.fail(
            "answer", "window", "the window onto the card's memory (BAR 1) has no address",
            "macOS and some docks never assign it, or the tunnel has no room for it", remedy,
        )  # fmt: skip
    elif size < LEAST_WINDOW:
        ladder.fail(
            "answer", "window",
            f"the window onto the card's memory (BAR 1) has {human_bytes(size)}",
            f"the tunnel had no more room; exosuit needs {human_bytes(LEAST_WINDOW)}", remedy,
        )  # fmt: skip
    else:
        kept = "; queues and launches are kept inside it" if size <= SMALL_VRAM_BAR else ""
        ladder.ok("answer", "window", f"BAR 1 shows {human_bytes(size)} of the memory{kept}")


def check_bridges(bridges: Iterable[tuple[int, int]], card: Identity, ladder: Ladder) -> None:
    """Say what is done about a bridge that does not survive a retrained link."""
    found = next((bridge for bridge in bridges if bridge in INTEL_BRIDGES), None)
    if found is None:
        return
    name = f"Intel's Thunderbolt bridge {found[0]:04x}:{found[1]:04x}"
    if card.architecture in PINNED:
        told = "loses the link when the firmware retrains it, so the link is kept at about 0.9 GB/s"
    else:
        told = f"keeps the link of {card.architecture} cards; nothing is changed"
    ladder.ok("link", "bridge", f"{name} {told}")


def check_driver_version(version: str, ladder: Ladder) -> None:
    """Judge whether the loaded kernel driver is of a branch whose records are known."""
    if not version or branch_of(version) is not None:
        ladder.ok("driver", "version", version or "not told")
        return
    known = ", ".join(str(number) for number in BRANCHES)
    ladder.warn(
        "driver", "version", f"NVIDIA's driver {version}",
        f"exosuit knows the records of the branches {known} only, so it goes through libcuda",
        "use  --device cuda:0   (nothing to do with auto)",
    )  # fmt: skip
