"""The host as a place for layers: its memory, its bandwidth, its arithmetic.

A Mac is looked up by its chip; anything else is measured by the kernels of `limits`, in a fifth of
a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from exosuit.advise.catalogue import Mac, macs, plain
from exosuit.advise.limits import DeviceLimits
from exosuit.advise.placement import Room
from exosuit.advise.speed import Rates
from exosuit.units import GiB

MAC_TOPS_PER_GB_S = 0.004
"""Arithmetic of a Mac's CPU by its bandwidth: about 1 TOP/s on an M4 Pro; assumed."""

SPECIFIED_SHARE = 0.6
"""Of a specified bandwidth, read by the CPU; assumed (M1 Max: 243 of 400 GB/s published)."""
MEASURED_SHARE = 0.8
"""Of a measured bandwidth: what exosuit's own decoding reached on a 2-core x86 server
(0.76 to 0.93 for Q4_0, Q8_0 and Q4_K_M of a 1B model)."""


def mac_room(mac: Mac, memory_gib: int | None = None) -> Room:
    """A Mac of the catalogue; without `memory_gib`, its largest memory."""
    size = memory_gib or max(mac.memory_gib)
    rates = Rates(mac.gb_s, mac.gb_s * MAC_TOPS_PER_GB_S, host_share=SPECIFIED_SHARE)
    return Room(f"Apple {mac.name}", size * GiB, rates)


def this_host(processor: str, measure: Callable[[], DeviceLimits]) -> Room:
    """This computer; `processor` is the maker's name of it, as `Apple M4 Pro`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = plain(processor).removeprefix("apple")
    mac = next((mac for mac in macs() if plain(mac.name) == name), None)
    if mac:
        known = mac_room(mac)
        return Room(known.device, memory, known.rates)
    limits = measure()
    rates = Rates(limits.read_gb_s, limits.int8_gop_s / 1e3, host_share=MEASURED_SHARE)
    return Room("cpu", memory, rates)
