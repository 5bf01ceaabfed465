"""Channels and engines by hand-made pushbuffers: what they do, and in which order."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.softcard.nvidia.bench import DATA, FLAG, Bench

from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.grid import Release, StructureSize
from exosuit.silicon.nvidia.push import COMPUTE, COPY, HOST, Host, methods, wide

WAIT_GEQ, SIGNAL_64_TIME, SIGNAL_32 = 0x0100_0003, 0x0310_0001, 0x0010_0001


def copy(source, target, size, launch=0x182):
    return (
        methods(COPY, Copy.OFFSET_IN_UPPER, *wide(source), *wide(target))
        + methods(COPY, Copy.LINE_LENGTH_IN, size)
        + methods(COPY, Copy.LAUNCH_DMA, launch)
    )


def signal(address, value, launch=0x14):
    return methods(COPY, Copy.SET_SEMAPHORE_A, *wide(address), value) + methods(
        COPY, Copy.LAUNCH_DMA, launch
    )


@pytest.fixture(params=[86, 89, 90, 120])
def bench(request):
    return Bench(request.param)


def test_a_channel_that_only_signals(bench):
    assert not bench.submit(1, bench.begin_compute, bench.semaphore(FLAG, 5 << 33, SIGNAL_64_TIME))
    value, time = bench.words(FLAG, 2, np.uint64)
    assert value == 5 << 33
    assert 0 < time <= bench.executor.elapsed_ns
    assert bench.setups[1].userd.read32(0x88) == 1
    assert not bench.faults


def test_a_grid_runs_and_releases(bench):
    bench.program()
    before = np.arange(128, dtype=np.uint32)
    bench.memory.write(DATA, before.tobytes())
    sizes = {"one": (StructureSize.ONE_WORD, False), "two": (StructureSize.TWO_WORDS, True)}
    for number, (size, is_wide) in enumerate(sizes.values()):
        payload = (number + 7) << (40 if is_wide else 0)
        qmd = bench.grid(
            DATA, 10, number=number, releases=(Release(FLAG + 64 * number, payload, size, is_wide),)
        )
        bench.submit(1, bench.begin_compute, bench.launch(qmd))
    assert (bench.words(DATA, 128) == before + 20).all()
    assert bench.words(FLAG, 1)[0] == 7
    assert bench.words(FLAG + 64, 1, np.uint64)[0] == 8 << 40
    assert not bench.faults
    assert not bench.notes


def test_a_release_of_four_words_has_the_time(bench):
    bench.program()
    qmd = bench.grid(DATA, 1, releases=(Release(FLAG, 9, StructureSize.FOUR_WORDS, True),))
    bench.submit(1, bench.begin_compute, bench.launch(qmd))
    value, time = bench.words(FLAG, 2, np.uint64)
    assert (value, time > 0) == (9, True)


def test_grids_that_follow_each_other_by_their_qmds(bench):
    """A whole chain with one entry and one doorbell, and its cost on the card's clock."""
    bench.program()
    last = bench.grid(DATA, 3, number=2, releases=(Release(FLAG, 1),))
    middle = bench.grid(DATA, 2, number=1, dependent=last)
    first = bench.grid(DATA, 1, number=0, dependent=middle)
    bench.submit(1, bench.begin_compute, bench.launch(first))
    assert (bench.words(DATA, 128) == 6).all()
    assert bench.words(FLAG, 1)[0] == 1
    once = bench.executor.elapsed_ns
    bench.submit(1, bench.launch(first))
    assert (bench.words(DATA, 128) == 12).all()
    assert 3 * 1_500 < bench.executor.elapsed_ns - once < 30_000


def test_copies_fills_and_their_semaphores(bench):
    data = np.random.default_rng(1).integers(0, 256, 5000, np.uint8)
    bench.memory.write(DATA, data.tobytes())
    bench.submit(2, bench.begin_copy, copy(DATA, DATA + 0x8000, 5000), signal(FLAG, 3))
    assert (bench.words(DATA + 0x8000, 5000, np.uint8) == data).all()
    assert bench.words(FLAG, 1)[0] == 3
    lines = methods(COPY, Copy.PITCH_IN, 100, 64) + methods(COPY, Copy.LINE_COUNT, 50)
    bench.submit(2, lines, copy(DATA, DATA + 0x10000, 60, 0x182 | 1 << 9))
    found = bench.words(DATA + 0x10000, 50 * 64, np.uint8).reshape(50, 64)
    assert (found[:, :60] == data.reshape(50, 100)[:, :60]).all()
    assert not found[:, 60:].any()
    fill = methods(COPY, Copy.SET_REMAP_CONST_A, 0x1234_5678) + methods(
        COPY, Copy.SET_REMAP_COMPONENTS, 4 | 3 << 16
    )
    bench.submit(2, fill, copy(0, DATA + 0x20000, 1000, 0x182 | 1 << 10), signal(FLAG, 4, 0x0C))
    assert (bench.words(DATA + 0x20000, 1000) == 0x1234_5678).all()
    assert bench.words(DATA + 0x20000, 1001)[-1] == 0
    assert bench.words(FLAG, 1)[0] == 4
    assert not bench.faults


def test_data_in_the_pushbuffer(bench):
    upload = (
        methods(COMPUTE, Compute.LINE_LENGTH_IN, 10, 1, *wide(DATA))
        + methods(COMPUTE, Compute.LAUNCH_DMA, 0x41)
        + b"".join(methods(COMPUTE, Compute.LOAD_INLINE_DATA, k) for k in (0x1111, 0x2222, 0x3333))
    )
    bench.submit(1, bench.begin_compute, upload)
    assert bench.memory.read(DATA, 12).hex() == "1111000022220000" + "33330000"[:4] + "0000"


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("late", [False, True])
def test_channels_wait_for_each_other(first, late):
    bench = Bench(late=late)
    bench.program()
    bench.memory.write(DATA, np.arange(128, dtype=np.uint32).tobytes())
    qmd = bench.grid(DATA + 0x8000, 5)
    bench.push(
        1, bench.begin_compute, bench.semaphore(FLAG, 1, WAIT_GEQ), bench.launch(qmd),
        bench.semaphore(FLAG, 2, SIGNAL_64_TIME),
    )  # fmt: skip
    bench.push(
        2, bench.begin_copy, copy(DATA, DATA + 0x8000, 512), signal(FLAG, 1),
        bench.semaphore(FLAG, 2, WAIT_GEQ), copy(DATA + 0x8000, DATA + 0x10000, 512),
    )  # fmt: skip
    bench.ring(first)
    assert bench.executor.run() or first == 2
    bench.ring(3 - first)
    assert not bench.executor.run()
    assert (bench.words(DATA + 0x10000, 128) == np.arange(128) + 5).all()
    assert not bench.faults


def test_a_wait_goes_on_when_the_host_writes():
    bench = Bench()
    signal_after = bench.semaphore(FLAG + 16, 1, SIGNAL_32)
    assert bench.submit(1, bench.semaphore(FLAG, 4, WAIT_GEQ), signal_after)
    assert bench.executor.run()
    bench.memory.write(FLAG, (3).to_bytes(8, "little"))
    assert bench.executor.run()
    bench.memory.write(FLAG, (4).to_bytes(8, "little"))
    assert not bench.executor.run()
    assert bench.words(FLAG + 16, 1)[0] == 1


def test_the_ring_wraps_around_and_only_the_doorbell_moves_it():
    bench = Bench()
    for k in range(150):
        bench.push(1, bench.semaphore(FLAG, k, SIGNAL_32))
        assert bench.words(FLAG, 1)[0] == max(k - 1, 0)
        bench.ring(1)
        bench.executor.run()
        assert bench.words(FLAG, 1)[0] == k
        bench.pushed -= 64
    assert bench.setups[1].userd.read32(0x88) == 150 % 64


@pytest.mark.parametrize(
    ("operation", "found", "payload", "goes_on"),
    [
        (0, 5, 5, True), (0, 5, 6, False), (2, 6, 5, True), (2, 4, 5, False),
        (3, 0x8000_0001, 0x8000_0000, True), (3, 1, 0xFFFF_FFFF, True), (3, 0xFFFF_FFFF, 1, False),
        (4, 0b110, 0b010, True), (4, 0b100, 0b010, False),
        (5, 0xFFFF_FF00, 0x0000_00F0, True), (5, 0xFFFF_FF0F, 0x0000_00F0, False),
    ],
)  # fmt: skip
def test_what_acquires_compare(operation, found, payload, goes_on):
    bench = Bench()
    bench.memory.write(FLAG, found.to_bytes(4, "little"))
    assert bench.submit(1, bench.semaphore(FLAG, payload, operation)) is not goes_on


def test_reductions():
    bench = Bench()
    bench.memory.write(FLAG, (10).to_bytes(4, "little"))
    add, least, most = 6 | 5 << 27 | 1 << 31, 6 | 0 << 27, 6 | 1 << 27 | 1 << 31
    bench.submit(1, bench.semaphore(FLAG, 5, add))
    assert bench.words(FLAG, 1)[0] == 15
    bench.submit(1, bench.semaphore(FLAG, 0xFFFF_FFFE, least))
    assert bench.words(FLAG, 1)[0] == 0xFFFF_FFFE
    bench.submit(1, bench.semaphore(FLAG, 7, most))
    assert bench.words(FLAG, 1)[0] == 0xFFFF_FFFE


def test_a_late_card_runs_grids_last_and_the_other_way_round():
    """Two grids that nothing orders: one adds to what the other has read, or not."""
    results = []
    for late in (False, True):
        bench = Bench(late=late)
        text = """.version 8.8
.target sm_80
.address_size 64
.visible .entry double_and_add(.param .u64 .ptr .global .align 4 a, .param .u64 b)
{
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
ld.param.b64 %rd0, [a];
ld.param.b64 %rd1, [b];
cvt.u32.u64 %r4, %rd1;
ld.global.b32 %r3, [%rd0];
mad.lo.s32 %r3, %r3, 2, %r4;
st.global.b32 [%rd0], %r3;
ret;
}
"""
        bench.program(text, "double_and_add")
        one = {"groups": (1, 1, 1), "lanes": (1, 1, 1)}
        first, second = (bench.grid(DATA, k + 1, number=k, **one) for k in range(2))
        wait = methods(HOST, Host.WFI, 0)
        bench.submit(1, bench.begin_compute, bench.launch(first), bench.launch(second))
        unordered = bench.words(DATA, 1)[0]
        bench.memory.write(DATA, bytes(4))
        bench.submit(1, bench.launch(first), wait, bench.launch(second), wait)
        results.append((unordered, bench.words(DATA, 1)[0]))
    assert results == [(4, 4), (5, 4)]


def test_a_late_card_lets_pipelined_copies_overlap():
    bench = Bench(late=True)
    bench.memory.write(DATA, b"aaaa")
    chain = copy(DATA, DATA + 64, 4, 0x181) + copy(DATA + 64, DATA + 128, 4, 0x181)
    bench.submit(2, bench.begin_copy, chain)
    assert bench.memory.read(DATA + 128, 4) == bytes(4)
    bench.submit(2, copy(DATA, DATA + 64, 4, 0x181), copy(DATA + 64, DATA + 128, 4, 0x182))
    assert bench.memory.read(DATA + 128, 4) == b"aaaa"
