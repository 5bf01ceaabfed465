"""Which way leads to a card, how it is known that exosuit goes it, and who has to be asked first.

A card that NVIDIA's kernel driver holds is reached through that driver; every other one is booted
by exosuit itself. Chips of data centres have boots of their own that nobody could try here, so for
them only the first way is left; `silicon.nvidia.chips` says which and why.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal, cast

from exosuit.silicon.nvidia.chips import CHIPS
from exosuit.silicon.pci_ids import NVIDIA, Identity

Way = Literal["boot", "nvidia"]


def way_to(driver: str) -> Way:
    """How a card is reached whose kernel driver is of that name."""
    return "nvidia" if driver == "nvidia" else "boot"


@cache
def known_architectures(way: Way) -> dict[str, str]:
    """Architecture to how it is known that exosuit drives it that way."""
    text = resources.files("exosuit.advise").joinpath("data/known.toml").read_text("utf-8")
    return cast("dict[Way, dict[str, str]]", tomllib.loads(text))[way]


def refusal_to_boot(identity: Identity) -> str:
    """Why exosuit does not boot this card itself; empty where it does, or cannot tell by its id."""
    if identity.vendor != NVIDIA or not identity.target:
        return ""
    chips = [chip for chip in CHIPS if chip.sm == identity.target]
    if not chips or any(not chip.refused for chip in chips):
        return ""
    return f"only NVIDIA's own driver starts {chips[0].name}: {chips[0].refused}"
