"""What a card can do at most, measured with kernels that do nothing else: read, copy, multiply.

The same three questions as `limits` asks the host. Memory is read and copied in a buffer that no
cache holds; matrix units multiply f16 in registers, by the instructions that our kernels have. On
some chips (Hopper) those are not the fastest, so the data sheet's figure stands beside it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from exosuit.advise.catalogue import cards_called
from exosuit.driver.device import Device
from exosuit.graph import Graph
from exosuit.kernel import (
    In,
    Out,
    f16,
    f32,
    group,
    i32,
    i64,
    kernel,
    lane,
    loop,
    mma,
    mma_tile,
    variable,
    zeros,
)
from exosuit.ops.programs import Programs
from exosuit.units import GiB, MiB

LANES = 256
_WORDS = 4
_AHEAD = 8
_TURN = LANES * _WORDS
PART_BYTES = 256 << 10
"""Of one workgroup."""
_LARGEST, _SMALLEST = 4 * GiB, 64 * MiB
_CHAINS = 8
_ROUNDS = 7


@dataclass(frozen=True)
class CardLimits:
    """In 10^9 bytes or operations per second; a multiplication and an addition are two.

    copy_gb_s         bytes read plus bytes written
    matrix_gflop_s    f16 summed in f32 on the matrix units, as measured
    datasheet_gflop_s the same as the vendor has it, dense; 0 for a card that nobody has listed
    """

    read_gb_s: float
    copy_gb_s: float
    matrix_gflop_s: float
    datasheet_gflop_s: float

    def arithmetic(self, floats: bool) -> float:
        """What prefill is held to, whatever the weights are: dense f16 of the data sheet."""
        del floats
        return self.datasheet_gflop_s or self.matrix_gflop_s

    def or_better(self, other: CardLimits) -> CardLimits:
        """The best of both in each respect."""
        return CardLimits(
            max(self.read_gb_s, other.read_gb_s),
            max(self.copy_gb_s, other.copy_gb_s),
            max(self.matrix_gflop_s, other.matrix_gflop_s),
            max(self.datasheet_gflop_s, other.datasheet_gflop_s),
        )


@kernel(group_size=LANES)
def read_card(data: In[i32], out: Out[i32], *, part_bytes: int) -> None:
    """Add up a part of `data`, one part for each workgroup, 16 bytes a lane at a time."""
    part = data.at(group().to(i64) * (part_bytes // 4)).at(lane() * _WORDS)
    totals = [variable(zeros(i32, _WORDS)) for _ in range(_AHEAD)]
    for i in loop(part_bytes // 4, step=_AHEAD * _TURN, unroll=1):
        for k, total in enumerate(totals):
            total.value += part.load(i + k * _TURN, _WORDS, 16, streaming=True)
    whole = totals[0].value
    for total in totals[1:]:
        whole = whole + total.value
    out[group() * LANES + lane()] = whole[0] + whole[1] + whole[2] + whole[3]


@kernel(group_size=LANES)
def copy_card(data: In[i32], out: Out[i32], *, part_bytes: int) -> None:
    """Copy a part, likewise."""
    offset = group().to(i64) * (part_bytes // 4)
    source, target = data.at(offset).at(lane() * _WORDS), out.at(offset).at(lane() * _WORDS)
    for i in loop(part_bytes // 4, step=_AHEAD * _TURN, unroll=1):
        values = [source.load(i + k * _TURN, _WORDS, 16, streaming=True) for k in range(_AHEAD)]
        for k, value in enumerate(values):
            target.store(value, i + k * _TURN, 16)


@kernel(group_size=LANES)
def multiply_tiles(seed: In[f16], out: Out[f32], *, turns: int) -> None:
    """Independent chains of the matrix unit's operation on f16, each wave its own."""
    tile = mma_tile(f16)
    a, b = tile.load_a(seed, tile.k), tile.load_b(seed, tile.k)
    totals = [variable(tile.zeros()) for _ in range(_CHAINS)]
    for _ in loop(turns, unroll=1):
        for total in totals:
            total.value = mma(a, b, total.value)
    whole = totals[0].value
    for total in totals[1:]:
        whole = whole + total.value
    out[group() * LANES + lane()] = whole[0]


def measure_card(device: Device, programs: Programs, title: str) -> CardLimits:
    """Medians of several runs.

    title  the card's name as the vendor has it, for the data sheet
    """
    size = _SMALLEST
    while size < _LARGEST and 8 * size <= device.memory_bytes:
        size *= 2
    data, other = device.allocate(size, "limits"), device.allocate(size, "limits copied")
    try:
        parts = size // PART_BYTES
        read, copy, multiply = Graph(), Graph(), Graph()
        read.launch(
            programs.get(read_card, part_bytes=PART_BYTES), parts, data.region(), other.region()
        )
        copy.launch(
            programs.get(copy_card, part_bytes=PART_BYTES), parts, data.region(), other.region()
        )
        groups, turns = 4 * device.parallel_groups, _turns(device)
        multiply.launch(
            programs.get(multiply_tiles, turns=turns), groups, data.region(), other.region()
        )
        flops = _flops(programs, groups, turns)
        return CardLimits(
            read_gb_s=size / _seconds(device, read) / 1e9,
            copy_gb_s=2 * size / _seconds(device, copy) / 1e9,
            matrix_gflop_s=flops / _seconds(device, multiply) / 1e9,
            datasheet_gflop_s=_datasheet(title),
        )
    finally:
        device.free(data)
        device.free(other)


def _turns(device: Device) -> int:
    """Some milliseconds on a large card; the smallest device is one that is modelled."""
    return 1 << 12 if device.parallel_groups >= 16 else 1 << 4


def _flops(programs: Programs, groups: int, turns: int) -> float:
    m, n, k = {"nvptx": (16, 8, 16), "amdgpu": (16, 16, 16)}[programs.target.family]
    return 2.0 * m * n * k * _CHAINS * turns * groups * (LANES // 32)


def _datasheet(title: str) -> float:
    found = {card.f16_tflops for card in cards_called(title)}
    return 1e3 * found.pop() if len(found) == 1 else 0.0


def _seconds(device: Device, graph: Graph) -> float:
    replay = graph.prepare(device)
    times: list[float] = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        replay.run()
        times.append(time.perf_counter() - start)
    replay.close()
    return statistics.median(times)
