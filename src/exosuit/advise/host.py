"""The host as a place for layers: its memory, its bandwidth, its arithmetic.

A Mac is looked up by its chip. Anything else is measured for a fifth of a second: every core sums
its own stretch of memory, and the sum of the rates is taken.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from exosuit.advise.catalogue import Mac, macs, plain
from exosuit.advise.placement import Room
from exosuit.advise.speed import Rates
from exosuit.units import GiB, MiB

MAC_TFLOPS_PER_GB_S = 0.004
"""f32 on a Mac's CPU, in proportion to bandwidth: about 1 on an M4 Pro; assumed."""
CORE_TFLOPS = 0.08
"""f32 on one x86 core with AVX2 at about 2.5 GHz: 32 operations a cycle."""


def mac_room(mac: Mac, memory_gib: int | None = None) -> Room:
    """A Mac of the catalogue; without `memory_gib`, its largest memory."""
    size = memory_gib or max(mac.memory_gib)
    rates = Rates(mac.gb_s, mac.gb_s * MAC_TFLOPS_PER_GB_S, is_host=True)
    return Room(f"Apple {mac.name}", size * GiB, rates)


def this_host(processor: str) -> Room:
    """This computer; `processor` is the maker's name of it, as `Apple M4 Pro`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = plain(processor).removeprefix("apple")
    mac = next((mac for mac in macs() if plain(mac.name) == name), None)
    if mac:
        known = mac_room(mac)
        return Room(known.device, memory, known.rates)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    rates = Rates(measure_gb_s(cores), cores * CORE_TFLOPS, is_host=True)
    return Room("cpu", memory, rates)


def measure_gb_s(threads: int, seconds: float = 0.2, size: int = 64 * MiB) -> float:
    """What `threads` threads together read from memory, in 10^9 bytes per second."""
    stretches = [np.ones(size // 8, dtype=np.uint64) for _ in range(threads)]
    deadline = time.perf_counter() + seconds

    def read(stretch: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> float:
        start, done = time.perf_counter(), 0
        while (now := time.perf_counter()) < deadline or not done:
            np.bitwise_or.reduce(stretch)
            done += stretch.nbytes
        return done / max(now - start, 1e-9) / 1e9

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(read, stretches))
