"""AMD software cards for the driver's tests: made, booted, and taken away at any access."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from exosuit.clock import Clock, ManualClock, SystemClock
from exosuit.driver.amd import AmdDevice, Card
from exosuit.link.function import PciFunction
from exosuit.softcard.amd.firmware import SyntheticFirmware
from exosuit.softcard.chips import make_card, parse_options, parse_spec
from exosuit.softcard.direct import DirectLink

SPEC = "gfx1100,vram=256M,strict"


def make(spec: str = SPEC, cache: Path | None = None) -> Any:
    """A software card, powered on."""
    chip, chosen = parse_spec(spec)
    options = parse_options(chosen)
    object.__setattr__(options, "cache", cache)
    return make_card(chip, options)


def boot(
    card: Any,
    link: PciFunction | None = None,
    clock: Clock | None = None,
    hang_s: float = 20.0,
    firmware: Any = None,
) -> AmdDevice:
    """Boot a card by our driver, straight in this process unless a link is given.

    Time passes at once unless a clock is given: a card in this process is done when it is asked.
    """
    link = link or DirectLink(card)
    driver = Card(link, firmware or SyntheticFirmware(), clock or ManualClock(), hang_s)
    return AmdDevice.boot(link, driver)


def boot_patiently(card: Any, link: PciFunction, hang_s: float = 60.0) -> AmdDevice:
    """Boot a card that another thread or process runs."""
    return boot(card, link, SystemClock(), hang_s)


def check_it_copies(device: AmdDevice, size: int = 10_000) -> None:
    """Bytes go to the card and come back."""
    buffer = device.allocate(size, "copied")
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    device.copy_in(buffer.region(), data)
    np.testing.assert_array_equal(device.copy_out(buffer.region(), np.uint8), data)
    device.free(buffer)


class Killed(BaseException):
    """The client's process is no more."""


_ACCESSES = ("read_bar", "write_bar", "read_config", "write_config")


@contextmanager
def killed_at(card: Any, access: int) -> Iterator[None]:
    """The client is killed before its access of that number, counted from 0; nothing it might
    still want to do happens."""
    left = [access]

    def dying(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return method(*arguments)

        return call

    for name in _ACCESSES:
        setattr(card, name, dying(getattr(card, name)))
    try:
        yield
    except Killed:
        pass
    finally:
        for name in _ACCESSES:
            delattr(card, name)
