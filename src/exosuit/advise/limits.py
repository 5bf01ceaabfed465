"""What the device itself can do at most, measured: bytes read per second, operations per second.

Shares of these limits are what `bench` reports: decoding is bound by the first, prefill by the
second. Both are measured with kernels that do nothing else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from exosuit.driver.device import Device
from exosuit.graph import Arena, Graph
from exosuit.kernel import (
    In,
    Out,
    f32,
    fma,
    group,
    i8,
    i16,
    i32,
    i64,
    kernel,
    loop,
    pair_dot,
    pair_dot_bytes,
    target,
    u8,
    variable,
    zeros,
)
from exosuit.kernel import dot4 as dot4_words
from exosuit.ops.programs import Programs
from exosuit.units import MiB

_LANES = 8
_READ_BYTES = 512 * MiB
_PART_BYTES = 1 * MiB
_TURNS = 1 << 20
_CHAINS = 10


@dataclass(frozen=True)
class DeviceLimits:
    """read_gb_s in 10^9 bytes per second; the others in 10^9 operations per second.

    A multiplication and an addition are two operations, as in the peers' figures.
    """

    read_gb_s: float
    int8_gop_s: float
    f32_gflop_s: float

    def arithmetic(self, floats: bool) -> float:
        """What prefill is held to: f32 where the weights are floats, else products of bytes."""
        return self.f32_gflop_s if floats else self.int8_gop_s

    def or_better(self, other: DeviceLimits) -> DeviceLimits:
        """The best of both in each respect: a limit is the most that was ever seen."""
        return DeviceLimits(
            max(self.read_gb_s, other.read_gb_s),
            max(self.int8_gop_s, other.int8_gop_s),
            max(self.f32_gflop_s, other.f32_gflop_s),
        )


@kernel
def read_all(data: In[i32], out: Out[i32], *, part_bytes: int) -> None:
    """Add up a part of `data`, one part for each workgroup."""
    part = data.at(group().to(i64) * (part_bytes // 4))
    totals = [variable(zeros(i32, _LANES)) for _ in range(8)]
    for i in loop(part_bytes // 4, step=8 * _LANES):
        for k, total in enumerate(totals):
            total.value += part.load(i + k * _LANES, _LANES)
    whole = totals[0].value
    for total in totals[1:]:
        whole = whole + total.value
    out[group()] = whole.reduce("add")


@kernel
def multiply_bytes(seed: In[u8], out: Out[i32], *, turns: int) -> None:
    """Independent chains of the target's own byte dots; 8 * 4 * 2 operations each."""
    a, b = seed.load(0, 4 * _LANES), seed.load(4 * _LANES, 4 * _LANES).view(i8)
    fast = target().has("dot4_fast")
    start = zeros(i32, _LANES)
    totals = [variable(start) for _ in range(_CHAINS)]
    pairs = [variable(start.view(i16)) for _ in range(_CHAINS)]
    for _ in loop(turns, unroll=1):
        for total, pair in zip(totals, pairs, strict=True):
            if fast:
                total.value = dot4_words(a, b, total.value)
            else:
                pair.value += pair_dot_bytes(a, pair.value.view(i8))
    whole = zeros(i32, _LANES)
    for total, pair in zip(totals, pairs, strict=True):
        whole = whole + (total.value if fast else pair_dot(pair.value, pair.value))
    out[group()] = whole.reduce("add")


@kernel
def multiply_floats(seed: In[f32], out: Out[f32], *, turns: int) -> None:
    """Independent chains of fused multiply-adds."""
    factor = seed.load(0, _LANES)
    totals = [variable(seed.load(k, _LANES)) for k in range(_CHAINS)]
    for _ in loop(turns, unroll=1):
        for total in totals:
            total.value = fma(total.value, factor, factor)
    whole = totals[0].value
    for total in totals[1:]:
        whole = whole + total.value
    out[group()] = whole.reduce("add")


def measure_limits(device: Device, programs: Programs) -> DeviceLimits:
    """Medians of several runs with all of the device's threads."""
    groups = device.parallel_groups
    arena = Arena(device, _READ_BYTES + 2 * MiB, "limits")
    data, out = arena.take(_READ_BYTES), arena.take(MiB)
    view = device.host_view(data, "u1")
    if view is not None:
        view[::4096] = 1  # or all pages would be the same one of zeros

    def rate(work: float, graph: Graph) -> float:
        replay = graph.prepare(device)
        seconds = statistics.median(_timed(replay.run) for _ in range(7))
        replay.close()
        return work / seconds / 1e9

    reading, bytes_graph, floats_graph = Graph(), Graph(), Graph()
    parts = _READ_BYTES // _PART_BYTES
    reading.launch(programs.get(read_all, part_bytes=_PART_BYTES), parts, data, out)
    bytes_graph.launch(programs.get(multiply_bytes, turns=_TURNS), groups, data, out)
    floats_graph.launch(programs.get(multiply_floats, turns=_TURNS), groups, data, out)
    vectors = groups * _TURNS * _CHAINS * _LANES
    limits = DeviceLimits(
        read_gb_s=rate(_READ_BYTES, reading),
        int8_gop_s=rate(vectors * 4 * 2, bytes_graph),
        f32_gflop_s=rate(vectors * 2, floats_graph),
    )
    arena.close()
    return limits


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
