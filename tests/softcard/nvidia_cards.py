"""NVIDIA software cards for the driver's tests: made, booted from nothing, and used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from exosuit.clock import Clock, ManualClock, SystemClock
from exosuit.driver.nvidia.bare_metal import BareMetalRoute, Card
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.link.function import PciFunction
from exosuit.program import Program
from exosuit.softcard.chips import make_card, parse_options, parse_spec
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.nvidia.firmware import SyntheticFirmware
from exosuit.softcard.nvidia.image import stand_in

CHIPS = ("ga102", "ad102", "gb202")
EVERY_CARD = os.environ.get("EXOSUIT_TEST_EVERY_CARD") == "1"
"""Every chip with every model and over every socket takes a quarter of an hour; without this a
choice of them is tested."""
SPEC = "vram=1G,strict"


def make(spec: str, cache: Path | None = None) -> Any:
    """A software card, powered on."""
    chip, chosen = parse_spec(spec)
    options = parse_options(chosen)
    object.__setattr__(options, "cache", cache)
    return make_card(chip, options)


def assemble(program: Program) -> bytes:
    """PTX stands in for machine code, which nobody can run here."""
    return stand_in(program.code, program.entry, program.target)


def boot_route(
    card: Any,
    link: PciFunction | None = None,
    clock: Clock | None = None,
    hang_s: float = 20.0,
    firmware: Any = None,
    **how: Any,
) -> BareMetalRoute:
    """Boot a card by our driver, straight in this process unless a link is given.

    Time passes at once unless a clock is given: a card in this process is done when it is asked.
    """
    link = link or DirectLink(card)
    driver = Card(link, firmware or SyntheticFirmware(), clock or ManualClock(), **how)
    return BareMetalRoute.boot(driver, hang_s)


def boot(card: Any, link: PciFunction | None = None, **how: Any) -> NvidiaDevice:
    """The same as a device."""
    return NvidiaDevice.start(boot_route(card, link, **how), assemble)


def boot_patiently(card: Any, link: PciFunction, hang_s: float = 60.0) -> NvidiaDevice:
    """Boot a card that another thread or process runs."""
    return boot(card, link, clock=SystemClock(), hang_s=hang_s)
