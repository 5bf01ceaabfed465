"""The device over queues and QMDs of software cards: the contract, costs, scratch, what fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.contract.check_device import (
    CELLS,
    CHECKS,
    check_closing,
    check_every_group_runs_once,
    check_fences_order_every_kind_of_hazard,
    check_steps_between_fences_are_concurrent,
    fill,
    grow,
    mix,
    mixed,
    program,
    set_cells,
    two_buffers,
)
from tests.softcard.flat_nvidia import FlatRoute, Refused, start, start_other

from exosuit.driver.device import Buffer, Device, Launch
from exosuit.driver.nvidia import channels, replay
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.errors import CardHung, KernelError, PageFault
from exosuit.graph import Graph
from exosuit.program import Access, Parameter, Program

# The software card ends one grid before the next begins, so launches cannot meet there.
SERIAL = [check for check in CHECKS if check is not check_steps_between_fences_are_concurrent]
OTHERS = ["sm_89", "sm_90", "sm_120"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs are translated once for all tests here."""
    return tmp_path_factory.mktemp("translated")


def route_of(device: NvidiaDevice) -> FlatRoute:
    assert isinstance(device.route, FlatRoute)
    return device.route


@pytest.mark.parametrize("check", SERIAL, ids=lambda check: check.__name__)
def test_contract(check, cache: Path):
    device = start(cache=cache)
    check(device)
    assert route_of(device).notes == []
    device.close()


@pytest.mark.parametrize("check", SERIAL, ids=lambda check: check.__name__)
def test_contract_where_host_memory_is_not_mapped(check, cache: Path):
    if check is check_fences_order_every_kind_of_hazard:
        pytest.skip("the same thousand replays")
    device = start(cache=cache, is_mapped=False)
    check(device)
    assert route_of(device).notes == []
    device.close()


@pytest.mark.parametrize("target", OTHERS)
def test_contract_of_other_generations(target: str, cache: Path):
    device = start_other(target, "sm_86", cache=cache)
    check_every_group_runs_once(device)
    check_hazards(device, 20)
    assert route_of(device).notes == []
    device.close()


def test_closing(cache: Path):
    check_closing(lambda: start(cache=cache))


def check_hazards(device: Device, turns: int) -> None:
    """Chains, groups and chains again, whose every step reads what the one before wrote."""
    a, b = two_buffers(device)
    graph = Graph()
    for _ in range(3):
        graph.launch(program(device, mix), CELLS, a.region(), b.region())
        graph.launch(program(device, fill), CELLS, a.region(), 7)
        graph.launch(program(device, grow), CELLS, b.region())
        graph.launch(program(device, mix), CELLS, b.region(), a.region())
    prepared = graph.prepare(device)
    for turn in range(turns):
        start = np.arange(CELLS) * (turn + 1)
        set_cells(device, a, start)
        prepared.run()
        for _ in range(3):
            grown = (mixed(start) * 5 + 3) & 0xFFFF
            start = mixed(grown)
        found = device.copy_out(a.region(), np.int32)
        np.testing.assert_array_equal(found, start, f"turn {turn}")
    prepared.close()


# What a driver must not forget ------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing", ["the wait between groups", "the wait for a chain", "the wait before the number"]
)
def test_what_is_left_out_shows(missing: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """The software card is late wherever it may be, so these tests would fail without the waits."""
    if missing == "the wait between groups":
        monkeypatch.setattr(replay, "await_idle", lambda: b"")
    elif missing == "the wait for a chain":
        monkeypatch.setattr(replay, "await_signal", lambda signal, number: b"")
    else:
        release = channels._RELEASE.replace(release_wfi=False)
        monkeypatch.setattr(channels, "_RELEASE", release)
    with pytest.raises((Refused, AssertionError)):
        check_hazards(start(cache=cache), 5)


def test_code_in_the_place_of_other_code_is_seen(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the invalidation at its head, a replay might run what lay there before."""
    device = start(cache=cache)
    cells = device.allocate(4 * CELLS, "cells")

    def run(kernel, *arguments: int) -> None:
        launch = Launch(program(device, kernel), CELLS, (cells.region(), *arguments), False)
        replay_ = device.prepare([launch])
        replay_.run()
        replay_.close()

    def forget() -> None:
        """As if the program's memory had been given back, and the next one got it."""
        for memory in [*route_of(device).taken.values()]:
            if memory.name.startswith("program"):
                device.route.give(memory)
        device._programs.clear()

    run(grow)
    forget()
    run(fill, 7)
    assert set(device.copy_out(cells.region(), np.int32)) == {7}
    forget()
    monkeypatch.setattr(replay, "begin", lambda: b"")
    with pytest.raises(Refused, match="instruction caches"):
        run(grow)


# What a replay costs ----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 200])
@pytest.mark.parametrize("is_mapped", [True, False])
def test_a_replay_costs_one_doorbell(steps: int, is_mapped: bool, cache: Path):
    """Four writes of 20 bytes however many launches there are; the rest is in card and host."""
    device = start(cache=cache, is_mapped=is_mapped)
    route = route_of(device)
    cells = device.allocate(4 * CELLS, "cells")
    graph = Graph()
    for _ in range(steps):
        graph.launch(program(device, grow), CELLS, cells.region())
    prepared = graph.prepare(device)
    prepared.run()
    for _ in range(5):
        writes, written, doorbells = route.counted.writes, route.counted.written, route.doorbells
        prepared.run()
        assert route.counted.writes - writes == 4
        assert route.counted.written - written == 20
        assert route.doorbells - doorbells == 1
    expected = np.zeros(CELLS, np.int64)
    for _ in range(6 * steps):
        expected = (expected * 5 + 3) & 0xFFFF
    np.testing.assert_array_equal(device.copy_out(cells.region(), np.int32), expected)
    device.close()


def test_a_chain_is_sent_with_one_qmd(cache: Path):
    """200 launches that depend on each other: one SEND_PCAS, 104 bytes of pushbuffer."""
    device = start(cache=cache)
    cells = device.allocate(4 * CELLS, "cells")
    graph = Graph()
    for _ in range(200):
        graph.launch(program(device, grow), CELLS, cells.region())
    prepared = graph.prepare(device)._prepared  # type: ignore[attr-defined]
    assert prepared.size == 16 + 24 + 16 + 24 + 24
    device.close()


def test_a_load_runs_at_the_speed_of_the_link():
    """At least nine tenths of it, in virtual time; in and out."""
    device = start(link="tb4")
    route = route_of(device)
    size = 64 << 20
    buffer = device.allocate(size, "weights")
    device._copies.finish()
    data = np.arange(size // 4, dtype=np.uint32)
    began = route.executor.elapsed_ns
    device.copy_in(buffer.region(), data)
    device._copies.finish()
    seconds = (route.executor.elapsed_ns - began) / 1e9
    assert size / seconds > 0.9 * route.meter.model.bandwidth
    began = route.executor.elapsed_ns
    found = device.copy_out(buffer.region(), np.uint32)
    seconds = (route.executor.elapsed_ns - began) / 1e9
    assert size / seconds > 0.9 * route.meter.model.bandwidth
    np.testing.assert_array_equal(found, data)
    device.close()


# Scratch ----------------------------------------------------------------------------------------

SPILLING = """
.version 8.0
.target sm_86
.address_size 64
.visible .entry spills{bytes}(.param .u64 out) .reqntid 32, 1, 1
{{
  .local .align 16 .b8 depot[{bytes}];
  .reg .b32 %r<8>; .reg .b64 %a<8>;
  ld.param.u64 %a1, [out];
  mov.u32 %r1, %tid.x;
  mad.lo.u32 %r2, %r1, 3, 5;
  st.local.u32 [depot+{last}], %r2;
  ld.local.u32 %r3, [depot+{last}];
  mul.wide.u32 %a2, %r1, 4;
  add.u64 %a3, %a1, %a2;
  st.global.u32 [%a3], %r3;
  ret;
}}
"""


def spilling(size: int) -> Program:
    code = SPILLING.format(bytes=size, last=size - 4).encode()
    parameter = Parameter("out", "i32", Access.OUT)
    return Program(f"spills {size}", "sm_86", f"spills{size}", code, (parameter,), 32, 0)


def test_programs_that_need_scratch_memory_get_it(cache: Path):
    """It grows with what they need, and what was prepared before still runs."""
    device = start(cache=cache)
    out = device.allocate(4 * 32, "out")
    expected = 3 * np.arange(32) + 5
    before = len(route_of(device).taken)
    prepared = [
        device.prepare([Launch(spilling(size), 3, (out.region(),), False)])
        for size in (64, 64, 4096, 256)
    ]
    for one in prepared:
        set_cells(device, out, np.zeros(32))
        one.run()
        np.testing.assert_array_equal(device.copy_out(out.region(), np.int32), expected)
    names = [memory.name for memory in route_of(device).taken.values()]
    assert names.count("scratch") == 1
    assert len(names) == before + 1 + 3 + 2 * 4  # scratch, programs, replays
    # 4,096 bytes and the ABI's, of 32 lanes, 48 warps, 2 SMs; times 4 TPCs.
    (scratch,) = [m for m in route_of(device).taken.values() if m.name == "scratch"]
    warp = -(-(4096 + 0x240) * 32 // 0x200) * 0x200
    assert scratch.size == -(-(-(-warp * 96 // 0x8000) * 0x8000 * 4) // 0x20000) * 0x20000
    device.close()


# What goes wrong --------------------------------------------------------------------------------


def run_wild(device: NvidiaDevice, address: int) -> None:
    wild = Buffer("wild", address, 64)
    device.prepare([Launch(program(device, fill), 1, (wild.region(), 7), False)]).run()


def test_a_page_fault_names_the_nearest_buffer_and_stays(cache: Path):
    device = start(cache=cache)
    buffer = device.allocate(4096, "kv.layer3")
    with pytest.raises(PageFault) as caught:
        run_wild(device, buffer.address + 4096 + 128)
    assert "128 B past the end of kv.layer3" in caught.value.cause
    with pytest.raises(PageFault) as again:
        device.copy_out(buffer.region(), np.uint8)
    assert again.value is caught.value
    device.free(buffer)
    device.close()


def test_machine_code_on_a_software_card_is_refused_by_it(cache: Path):
    """Not by the driver, which loads a cubin as it is."""
    device = start(cache=cache)
    cells = device.allocate(4 * CELLS, "cells")
    whole = program(device, fill)
    cubin = device.assemble(whole).replace(b"//PTX", b"\x01\x02\x03\x04\x05")
    launch = Launch(replace(whole, code=cubin), 1, (cells.region(), 7), False)
    with pytest.raises(CardHung):
        device.prepare([launch]).run()
    device.close()


def test_what_is_refused_takes_nothing(cache: Path):
    device = start(cache=cache)
    cells = device.allocate(4 * CELLS, "cells")
    whole = program(device, fill)
    good = Launch(whole, 1, (cells.region(), 7), False)
    device.prepare([good]).close()
    device.free(device.allocate(4, "sweeps what was dropped"))
    names = sorted(memory.name for memory in route_of(device).taken.values())
    bad = Launch(replace(whole, group_size=2048), 1, (cells.region(), 7), False)
    with pytest.raises(KernelError, match="2048 lanes"):
        device.prepare([good, bad])
    assert sorted(memory.name for memory in route_of(device).taken.values()) == names
    device.close()


def test_what_is_collected_comes_back(cache: Path):
    """Buffers and replays that nobody holds, although nobody freed them."""
    device = start(cache=cache, local_bytes=256 << 20)
    cells = device.allocate(4 * CELLS, "cells")
    launch = Launch(program(device, fill), 1, (cells.region(), 7), False)
    device.prepare([launch]).run()
    for _ in range(20):
        device.allocate(50 << 20, "dropped")  # five of them are more than the card has
        device.prepare([launch]).run()
    names = [memory.name for memory in route_of(device).taken.values()]
    assert names.count("dropped") <= 1
    assert names.count("replay") <= 2 * 2
    device.close()
