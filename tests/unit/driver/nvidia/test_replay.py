"""Launches as pushbuffers and QMDs: words counted by hand, or tinygrad's; chains and groups."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.check_device import fill, grow, meet, mix
from tests.softcard.flat_nvidia import assemble

from exosuit.driver.device import Buffer, Launch
from exosuit.driver.nvidia.channels import PAYLOAD_AT, RELEASE_BYTES, release
from exosuit.driver.nvidia.copies import copy
from exosuit.driver.nvidia.copies import fill as fill_packets
from exosuit.driver.nvidia.loader import Loaded, loaded, read
from exosuit.driver.nvidia.replay import (
    Chip,
    await_signal,
    begin,
    descriptor_bytes,
    fenced,
    record,
    start_grid,
)
from exosuit.driver.nvidia.scratch import setup
from exosuit.kernel import Target, compile_kernel
from exosuit.program import Program
from exosuit.silicon.nvidia.bank import bank0
from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.grid import Bank, Release, StructureSize
from exosuit.silicon.nvidia.push import methods, read_methods
from exosuit.silicon.nvidia.qmd import Qmd3, Qmd4, Qmd5
from exosuit.units import GpuAddress

BASE = GpuAddress(0x12_0000_0000)
CODE = GpuAddress(0x13_0000_1000)
CHIPS = {
    "sm_86": Chip(86, 0x86, Qmd3),
    "sm_90": Chip(90, 0x90, Qmd4),
    "sm_120": Chip(120, 0xA4, Qmd5),
}
SEND = Compute.SEND_PCAS_A.description.offset
ACT = Compute.SEND_SIGNALING_PCAS2_B.description.offset
IDLE = Compute.WAIT_FOR_IDLE.description.offset


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    return {k.name: compile_kernel(k, Target.named("sm_86")) for k in (fill, grow, mix, meet)}


def launch(program: Program, fence: bool, groups: int = 5) -> Launch:
    arguments = [
        Buffer(p.name, 0x2000_0000_1000 * (k + 1), 64).region() if p.access.value != "value" else 3
        for k, p in enumerate(program.parameters)
    ]
    return Launch(program, groups, tuple(arguments), fence)


def placed(program: Program, target: str) -> Loaded:
    chip = CHIPS[target]
    kernel = read(replace(program, target=target), chip.sm, assemble)
    return loaded(kernel, chip.sm, CODE)


def recorded(programs: dict[str, Program], fences: list[bool], target: str = "sm_86"):
    launches = [launch(programs["mix"], fence) for fence in fences]
    chip = CHIPS[target]
    made = record(launches, [placed(programs["mix"], target)] * len(launches), chip, BASE)
    assert len(made.descriptors) == descriptor_bytes(launches, chip)
    return made


def dwords(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


# Words -----------------------------------------------------------------------------------------


def test_words_counted_by_hand(programs: dict[str, Program]):
    made = recorded(programs, [False])
    assert dwords(made.packets) == [
        0x2001_20A6, 0,  # INVALIDATE_SKED_CACHES
        0x2001_25A6, 0x1011,  # INVALIDATE_SHADER_CACHES_NO_WFI: instructions, data, constants
        0x2001_20AD, 0x12_0000_0000 >> 8,  # SEND_PCAS_A
        0x2001_20B0, 9,  # SEND_SIGNALING_PCAS2_B: prefetch and schedule
    ]  # fmt: skip
    assert dwords(methods(1, Compute.WAIT_FOR_IDLE, 0)) == [0x2001_2044, 0]


@pytest.fixture(scope="module")
def tinygrad() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ops_nv = pytest.importorskip("tinygrad.runtime.ops_nv")
        from tinygrad.runtime.autogen import nv_580
    ops_nv.nv_gpu = nv_580
    return ops_nv


class Placed:
    def __init__(self, address: int) -> None:
        self.va_addr = address


def test_words_as_tinygrad_writes_them(tinygrad: Any):
    queue = tinygrad.NVComputeQueue
    expected = queue().write(Placed(0x12_0000_0010), 7)._q
    assert dwords(release(GpuAddress(0x12_0000_0010), 7)) == expected
    assert dwords(release(GpuAddress(0), 9))[PAYLOAD_AT // 4] == 9
    assert len(release(GpuAddress(0), 0)) == RELEASE_BYTES == 24
    assert dwords(begin())[2:] == queue().memory_barrier()._q
    expected = queue().setup(local_mem=0x12_3456_0000, local_mem_tpc_bytes=0x1C8000)._q
    assert dwords(setup(GpuAddress(0x12_3456_0000), 0x1C8000))[2:] == expected


def test_a_wait_is_tinygrads_for_32_bits(tinygrad: Any):
    expected = tinygrad.NVComputeQueue().wait(Signal(0x12_0000_0010), 7)._q
    *words, execute = dwords(await_signal(GpuAddress(0x12_0000_0010), 7))
    assert words == expected[:-1]
    assert execute | 1 << 24 == expected[-1]


class Signal:
    def __init__(self, address: int) -> None:
        self.value_addr = address


def test_a_copy_is_tinygrads_and_a_flush(tinygrad: Any):
    queue = tinygrad.NVCopyQueue().copy(Placed(0x12_0000_0000), Placed(0x7_1300_0000_0010), 0x1234)
    *words, launch = dwords(copy(0x7_1300_0000_0010, 0x12_0000_0000, 0x1234))
    assert words == queue._q[:-1]
    assert launch == queue._q[-1] | 1 << 2


def test_a_fill_writes_a_constant():
    found = [(w.method, w.value) for w in read_methods(fill_packets(0x13_0000_0040, 0x100))]
    assert found == [
        (0x700, 0), (0x708, 0x3_0004), (0x408, 0x13), (0x40C, 0x40), (0x418, 0x40), (0x300, 0x586),
    ]  # fmt: skip


# Chains and groups -----------------------------------------------------------------------------


def shape(packets: bytes) -> list[str]:
    """`idle`, the number of each QMD that is sent, and `=n` for a wait for a chain."""
    found: list[str] = []
    semaphore: list[int] = []
    for write in read_methods(packets[len(begin()) :]):
        if write.method == IDLE:
            found.append("idle")
        elif write.method == SEND:
            found.append(str(((write.value << 8) - BASE) // 256))
        elif write.method in range(0x5C, 0x70, 4):
            semaphore.append(write.value)
            if write.method == 0x6C:
                *_, number, high, execute = semaphore
                assert high == 0
                assert execute in (3, 0x10_0001)
                assert (execute == 3) == (number != 0)
                found.append(f"={number}")
                semaphore.clear()
        else:
            assert (write.method, write.value) == (ACT, 9)
    return found


def dependents(descriptors: bytes, count: int, kind: type[Qmd3] = Qmd3) -> list[int | None]:
    """Which QMD each one schedules."""
    grids = [kind.decode(descriptors[256 * k :]).grid() for k in range(count)]
    return [None if g.dependent is None else (g.dependent - BASE) // 256 for g in grids]


@pytest.mark.parametrize(
    ("fences", "sent", "chained"),
    [
        ([False], ["0"], [None]),
        ([True, True, True], ["=0", "0", "=1"], [1, 2, None]),
        ([False, True, True, True], ["=0", "0", "=1"], [1, 2, 3, None]),
        ([False, False], ["0", "1"], [None, None]),
        ([False, False, True], ["0", "1", "idle", "2"], [None, None, None]),
        ([False, True, False], ["0", "idle", "1", "2"], [None, None, None]),
        (
            [True, True, True, False, False, True, True, True],
            ["=0", "0", "=1", "2", "3", "4", "idle", "5", "=2"],
            [1, None, None, None, None, 6, 7, None],
        ),
    ],
)
def test_single_launches_are_chained_and_groups_are_sent(
    fences: list[bool], sent: list[str], chained: list[int | None], programs: dict[str, Program]
):
    made = recorded(programs, fences)
    assert shape(made.packets) == sent
    assert dependents(made.descriptors, len(fences)) == chained


@given(st.lists(st.booleans(), min_size=1, max_size=12))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_launch_begins_before_its_time(programs: dict[str, Program], fences: list[bool]):
    """On a card where a grid ends only when something makes it, and idle means grids sent."""
    made = recorded(programs, fences)
    follows = dependents(made.descriptors, len(fences))
    levels = [sum(fences[1 : k + 1]) for k in range(len(fences))]
    begun: list[int] = []
    ended: set[int] = set()

    def begin_one(index: int) -> None:
        assert index not in begun
        early = [k for k in range(len(fences)) if levels[k] < levels[index] and k not in ended]
        assert not early, f"{index} begins before {early} have ended"
        begun.append(index)

    def end_chain(index: int) -> int:
        """All of a chain end, one after the other; the last one's number."""
        ended.add(index)
        following = follows[index]
        if following is None:
            return index
        begin_one(following)
        return end_chain(following)

    waited = 0
    for step in [*shape(made.packets), "idle"]:
        open_ = [k for k in begun if k not in ended]
        if step == "=0":
            assert not begun
        elif step.startswith("="):
            waited += 1
            assert step == f"={waited}"
            assert len(open_) == 1
            end_chain(open_[0])
        elif step == "idle":
            assert all(follows[k] is None for k in open_), "idle says nothing of chains"
            ended.update(open_)
        else:
            begin_one(int(step))
    assert ended == set(range(len(fences)))


def test_the_last_of_a_chain_writes_what_the_channel_waits_for(programs: dict[str, Program]):
    made = recorded(programs, [True, True, False, True, True, True])
    grids = [Qmd3.decode(made.descriptors[256 * k :]).grid() for k in range(6)]
    signal = BASE + len(made.descriptors) - 16
    writes = {k: g.releases for k, g in enumerate(grids) if g.releases}
    assert writes == {5: (Release(signal, 1, StructureSize.FOUR_WORDS),)}
    words = [w.value for w in read_methods(made.packets) if w.method in (0x5C, 0x60, 0x64)]
    assert words == [signal & 0xFFFF_FFFF, signal >> 32, 0, signal & 0xFFFF_FFFF, signal >> 32, 1]


def test_launches_of_nothing_leave_their_fences(programs: dict[str, Program]):
    one = programs["grow"]
    launches = [
        launch(one, False), launch(one, True, 0), launch(one, False), launch(one, False),
        launch(one, False, 0), launch(one, True, 0),
    ]  # fmt: skip
    assert [(x.groups, x.fence) for x in fenced(launches)] == [(5, False), (5, True), (5, False)]


# Descriptors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", list(CHIPS))
def test_what_a_launch_is_told(target: str, programs: dict[str, Program]):
    chip = CHIPS[target]
    program = replace(programs["fill"], target=target)
    launches = [launch(program, False, 70_000), launch(program, True, 2)]
    made = record(launches, [placed(program, target)] * 2, chip, BASE)
    stride = chip.stride
    assert stride == (256 if target == "sm_86" else 512)
    for k, one in enumerate(launches):
        grid = chip.qmd.decode(made.descriptors[stride * k :]).grid()
        kind = bank0(chip.sm)
        size = kind.ARGUMENTS + 16
        at = BASE + 2 * stride + k * -(-size // 256) * 256
        assert grid.banks == {0: Bank(at, -(-size // 16) * 16, True)}
        assert grid.groups == (one.groups, 1, 1)
        assert grid.lanes == (32, 1, 1)
        assert grid.program == CODE
        assert grid.sass_version == chip.sass_version
        assert grid.shared_bytes == 0x400
        assert grid.shared_configs[0] == 8
        assert grid.local_bytes == 0
        words = made.descriptors[at - BASE :][:size]
        read_back = kind(words)
        assert (read_back.block_x, read_back.block_y, read_back.block_z) == (32, 1, 1)
        assert (read_back.grid_x, read_back.grid_y, read_back.grid_z) == (one.groups, 1, 1)
        assert read_back.stack_pointer == 0xFFFDC0
        assert read_back.local_window == 0x7293_0000_0000
        assert read_back.shared_window == 0x7294_0000_0000
        assert words[kind.ARGUMENTS :] == one.argument_block()


def test_start_grid_takes_multiples_of_256():
    assert dwords(start_grid(GpuAddress(0xFF_FFFF_FF00)))[1] == 0xFFFF_FFFF
