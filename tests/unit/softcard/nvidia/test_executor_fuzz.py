"""Random pushbuffers and descriptors: faults and notes, no exception, no hang, no stray write."""

from __future__ import annotations

import random
import struct
import time

import numpy as np
import pytest
from tests.unit.softcard.nvidia.bench import (
    BANKS,
    BASE,
    CODE,
    DATA,
    FLAG,
    PUSH,
    QMDS,
    RING,
    SCRATCH,
    Bench,
)

from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.grid import Release
from exosuit.silicon.nvidia.push import COMPUTE, COPY, Host
from exosuit.silicon.nvidia.qmd import layout
from exosuit.softcard.nvidia.ptx import grid

ROUNDS = 40
SECONDS = 20
_VALUES = (0, 1, 2, 3, 9, 0x10, 0x14, 0x41, 0x182, 0xFF, 0x1011, 0x1_0000, 0xFFFF_FFFF)


@pytest.fixture(autouse=True)
def few_groups(monkeypatch):
    """What would take long counts as a hang earlier, so that a test need not wait for it."""
    monkeypatch.setattr(grid, "MOST_IN_ALL", 1 << 12)


def a_value(chance: random.Random, bench: Bench) -> int:
    """Something that is likely to do something."""
    return chance.choice(
        (
            chance.choice(_VALUES),
            chance.getrandbits(32),
            chance.getrandbits(8),
            BASE >> 32,
            (chance.choice((DATA, FLAG, CODE, BANKS, RING)) & 0xFFFF_FFFF) + chance.getrandbits(9),
            QMDS + 0x200 * chance.randrange(4) >> 8,
            bench.compute_class,
        )
    )


def a_packet(chance: random.Random, bench: Bench) -> bytes:
    block, subchannel = chance.choice(((Host, 0), (Compute, COMPUTE), (Copy, COPY)))
    offsets = [d.offset for d in block.REGISTERS.values() if d.offset]
    method = chance.choice(offsets) if chance.random() < 0.97 else 4 * chance.getrandbits(12)
    count = chance.choice((1, 1, 2, 4, 6))
    opcode = chance.choice((1, 1, 1, 1, 3, 5)) if chance.random() < 0.99 else chance.getrandbits(3)
    header = opcode << 29 | count << 16 | subchannel << 13 | method >> 2
    return struct.pack(f"<{1 + count}I", header, *(a_value(chance, bench) for _ in range(count)))


@pytest.mark.parametrize("sm", [86, 90, 120])
@pytest.mark.parametrize("late", [False, True])
def test_random_methods(sm, late, tmp_path):
    chance = random.Random(sm + late)
    began, kinds = time.monotonic(), set()
    for _ in range(ROUNDS):
        bench = Bench(sm, strict=False, late=late, cache=tmp_path)
        bench.program()
        for number in range(4):
            bench.grid(DATA, 1, number=number, releases=(Release(FLAG, 1),))
        begin = (bench.begin_compute, bench.begin_copy)
        for channel in (1, 2):
            packets = [a_packet(chance, bench) for _ in range(chance.randrange(1, 60))]
            if PUSH + 0x8000 - bench.pushed > 0x100:
                bench.submit(channel, *begin, *packets)
        bench.executor.run()
        kinds.update(type(fault) for fault in bench.faults)
        assert time.monotonic() - began < SECONDS
    assert len(kinds) >= 3, kinds


@pytest.mark.parametrize("sm", [86, 90, 120])
def test_descriptors_with_bits_flipped(sm, tmp_path):
    """Whatever a descriptor says, memory that it does not name stays as it is."""
    chance = random.Random(sm)
    began, ran, refused = time.monotonic(), 0, 0
    for _ in range(2 * ROUNDS):
        bench = Bench(sm, strict=False, cache=tmp_path)
        bench.program()
        qmd = bench.grid(DATA, 1, releases=(Release(FLAG, 1),))
        size = layout(bench.compute_class).WIDTH
        data = int.from_bytes(bench.memory.read(qmd, size // 8), "little")
        for _ in range(chance.randrange(1, 8)):
            data ^= 1 << chance.randrange(size)
        bench.memory.write(qmd, data.to_bytes(size // 8, "little"))
        before = bench.memory.bytes.copy()
        bench.submit(1, bench.begin_compute, bench.launch(qmd))
        changed = np.flatnonzero(before != bench.memory.bytes) + BASE
        named = (changed >= DATA) & (changed < SCRATCH)  # with more groups there is more of it
        named |= (changed >= PUSH) & (changed < PUSH + 0x1000)
        named |= changed >> 12 == RING + 0x1000 >> 12
        assert named.sum() >= len(changed) - 16  # but for the release, wherever that may be
        ran += bool((bench.words(DATA, 64) == 1).all())
        refused += bool(bench.faults)
        assert time.monotonic() - began < SECONDS
    assert ran > ROUNDS // 2
    assert refused > ROUNDS // 2


@pytest.mark.parametrize("seed", range(4))
def test_random_words_in_ring_and_pushbuffer(seed):
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        bench = Bench(86, strict=False)
        bench.memory.write(PUSH, chance.randbytes(2048))
        bench.memory.write(bench.setups[1].ring, chance.randbytes(512))
        for slot in range(0, 64, 2):
            place = PUSH + 4 * chance.randrange(256)
            entry = place | 1 << 41 | chance.randrange(1, 64) << 42
            bench.memory.write(bench.setups[1].ring + 8 * slot, entry.to_bytes(8, "little"))
        bench.put[1] = chance.randrange(64)
        bench.ring(1)
        bench.executor.run()
        bench.executor.run()
