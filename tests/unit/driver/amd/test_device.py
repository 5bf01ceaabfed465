"""The device over an AMD software card passes the contract: in this process, by socket, by TCP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.contract.check_device import (
    CELLS,
    CHECKS,
    check_closing,
    check_steps_between_fences_are_concurrent,
    fill,
    grow,
    program,
    set_cells,
)
from tests.contract.serving import serving, unix_address
from tests.softcard.amd_cards import boot, boot_patiently, check_it_copies, make
from tests.unit.driver.amd.test_loader import assemble

from exosuit.driver.amd import AmdDevice
from exosuit.driver.amd.attach import State
from exosuit.driver.amd.loader import load
from exosuit.driver.device import Buffer, Launch
from exosuit.errors import CardHung, DoesNotFit, KernelError, PageFault
from exosuit.graph import Graph
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.program import Access, Parameter, Program

# The software card runs one dispatch after the other, fence or not: launches cannot meet there.
SERIAL = [check for check in CHECKS if check is not check_steps_between_fences_are_concurrent]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Programs are translated once for all tests here."""
    return tmp_path_factory.mktemp("translated")


@pytest.mark.parametrize("check", SERIAL, ids=lambda check: check.__name__)
def test_contract(check, cache: Path):
    card = make(cache=cache)
    device = boot(card)
    check(device)
    device.close()
    assert card.notes == []
    assert not card.host.mappings


def test_closing(cache: Path):
    check_closing(lambda: boot(make(cache=cache)))


def test_contract_by_socket(cache: Path, tmp_path: Path):
    card = make(cache=cache)
    address = unix_address(tmp_path)
    with serving(card, address):
        for check in SERIAL:
            link = TinyGpuLink.open(Path(address.removeprefix("unix:")), name="tinygpu")
            device = boot_patiently(card, link)
            check(device)
            device.close()
    assert card.notes == []


def test_contract_by_tcp(cache: Path):
    """Where host memory is not mapped, everything still holds."""
    card = make(cache=cache)
    with serving(card, "tcp:127.0.0.1:0") as server:
        for check in SERIAL:
            link = RemoteLink.open(server.address.host, server.address.port)
            device = boot_patiently(card, link)
            check(device)
            device.close()
    assert card.notes == []


# What a replay costs --------------------------------------------------------------------------


def graph_of(device: AmdDevice, steps: int):
    cells = device.allocate(4 * CELLS, "cells", host=True)
    set_cells(device, cells, np.zeros(CELLS))
    graph = Graph()
    for _ in range(steps):
        graph.launch(program(device, grow), CELLS, cells.region())
    return cells, graph.prepare(device)


def test_a_replay_costs_one_doorbell(cache: Path):
    card = make(cache=cache)
    device = boot(card)
    cells, replay = graph_of(device, 200)
    replay.run()
    before = device.link.counters.copy()
    for _ in range(5):
        replay.run()
        assert device.host_view(cells.region(), np.int32) is not None
    crossed = device.link.counters.since(before)
    assert (crossed.reads, crossed.round_trips) == (0, 0)
    assert (crossed.writes, crossed.bytes_written) == (5, 40)
    device.close()


def test_a_replay_over_tcp_is_three_small_writes(cache: Path):
    """Ring, pointer and doorbell; and polling, which there is a request."""
    card = make(cache=cache)
    with serving(card, "tcp:127.0.0.1:0") as server:
        link = RemoteLink.open(server.address.host, server.address.port)
        device = boot_patiently(card, link)
        _, replay = graph_of(device, 3)
        replay.run()
        before = device.link.counters.copy()
        replay.run()
        crossed = device.link.counters.since(before)
        assert crossed.writes == 3
        assert crossed.bytes_written == 64
        assert crossed.bytes_read % 20 == 0  # nothing but the page of signals
        device.close()


def test_a_load_runs_at_the_speed_of_the_link():
    """At least nine tenths of it, in virtual time; in and out."""
    card = make("gfx1100,vram=512M,link=tb4")
    device = boot(card)
    size = 64 << 20
    buffer = device.allocate(size, "weights")
    device.card.copies.finish()
    data = np.arange(size // 4, dtype=np.uint32)
    began = card.elapsed_ns
    device.copy_in(buffer.region(), data)
    device.card.copies.finish()
    seconds = (card.elapsed_ns - began) / 1e9
    assert size / seconds > 0.9 * card.meter.model.bandwidth
    began = card.elapsed_ns
    found = device.copy_out(buffer.region(), np.uint32)
    seconds = (card.elapsed_ns - began) / 1e9
    assert size / seconds > 0.9 * card.meter.model.bandwidth
    np.testing.assert_array_equal(found, data)
    device.close()


# What goes wrong ------------------------------------------------------------------------------


def run_wild(device: AmdDevice, address: int) -> None:
    wild = Buffer("wild", address, 64)
    launch = Launch(program(device, fill), 1, (wild.region(), 7), False)
    device.prepare([launch]).run()


def test_a_page_fault_names_the_nearest_buffer(cache: Path):
    card = make(cache=cache)
    device = boot(card)
    buffer = device.allocate(4096, "kv.layer3")
    with pytest.raises(PageFault, match="nothing is mapped") as caught:
        run_wild(device, buffer.address + 4096 + 128)
    assert "past the end of kv.layer3" in caught.value.cause
    assert caught.value.fields["address"] >> 12 == (buffer.address >> 12) + 1
    with pytest.raises(PageFault):  # it stays broken
        device.copy_out(buffer.region(), np.uint8)
    device.close()
    device = boot(card)  # and the next one starts over
    assert device.card.found is State.UNKNOWN
    check_it_copies(device)
    device.close()


def test_a_freed_buffer_faults(cache: Path):
    card = make(cache=cache)
    device = boot(card)
    buffer = device.allocate(3 << 20, "freed")
    address = buffer.address
    device.free(buffer)
    with pytest.raises(PageFault):
        run_wild(device, address)
    device.close()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("program", CardHung, "illegal instruction"),
        ("page", PageFault, "nothing is mapped"),
        ("hang", CardHung, "did not finish"),
    ],
)
def test_faults_end_in_three_lines(fault: str, error, words: str, cache: Path):
    card = make("gfx1100,vram=256M", cache=cache)
    device = boot(card, hang_s=0.5)
    _, replay = graph_of(device, 3)
    replay.run()
    card.faults = type(card.faults).parse(f"{fault}@1")
    with pytest.raises(error, match=words) as caught:
        replay.run()
    assert caught.value.cause
    assert caught.value.next
    device.close()
    device = boot(card)
    check_it_copies(device)
    device.close()


def test_too_little_memory_says_what_takes_it():
    device = boot(make())
    held = [device.allocate(60 << 20, "weights of layer 1"), device.allocate(3 << 20, "cache")]
    with pytest.raises(DoesNotFit, match="logits") as caught:
        device.allocate(200 << 20, "logits")
    assert "weights of layer 1 60 MiB, cache 3 MiB" in caught.value.cause
    assert caught.value.fields["free"] < device.memory_bytes - (63 << 20)
    assert [buffer.size_bytes for buffer in held] == [60 << 20, 3 << 20]
    device.close()


def test_an_oversized_group_is_refused(cache: Path):
    from dataclasses import replace

    device = boot(make(cache=cache))
    cells = device.allocate(4 * CELLS, "cells")
    whole = program(device, fill)
    launch = Launch(replace(whole, group_size=2048), 1, (cells.region(), 7), False)
    free = device.card.memory.named()
    with pytest.raises(KernelError, match="2048 lanes"):
        device.prepare([launch])
    assert len(device.card.memory.named()) == len(free) + 1  # the program stays, nothing else
    device.close()


def test_what_is_collected_comes_back(cache: Path):
    """Buffers and replays that nobody holds, although nobody freed them."""
    device = boot(make(cache=cache))
    cells = device.allocate(4 * CELLS, "cells")
    launch = Launch(program(device, fill), 1, (cells.region(), 7), False)
    device.prepare([launch]).run()
    for _ in range(20):
        device.allocate(50 << 20, "dropped")  # five of them are more than the card has
        device.prepare([launch]).run()
    names = [name for name, _, _ in device.card.memory.named()]
    assert names.count("dropped") <= 1
    assert names.count("replay") <= 1
    device.close()


SPILLING = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @spills(ptr addrspace(1) %out) "amdgpu-no-implicitarg-ptr"
    "amdgpu-no-dispatch-ptr" "amdgpu-no-queue-ptr" "amdgpu-no-dispatch-id"
    "amdgpu-flat-work-group-size"="64,64" {
entry:
  %table = alloca [64 x i32], addrspace(5)
  %lane = call i32 @llvm.amdgcn.workitem.id.x()
  br label %fill
fill:
  %k = phi i32 [ 0, %entry ], [ %next, %fill ]
  %at = getelementptr [64 x i32], ptr addrspace(5) %table, i32 0, i32 %k
  %tripled = mul i32 %k, 3
  %value = add i32 %tripled, %lane
  store volatile i32 %value, ptr addrspace(5) %at
  %next = add i32 %k, 1
  %more = icmp ult i32 %next, 64
  br i1 %more, label %fill, label %done
done:
  %which = xor i32 %lane, 63
  %from = getelementptr [64 x i32], ptr addrspace(5) %table, i32 0, i32 %which
  %found = load volatile i32, ptr addrspace(5) %from
  %slot = getelementptr i32, ptr addrspace(1) %out, i32 %lane
  store i32 %found, ptr addrspace(1) %slot
  ret void
}
"""


def test_programs_that_need_scratch_memory_get_it(cache: Path):
    """Every lane keeps a table of its own in memory that the driver lends it."""
    code = assemble(SPILLING)
    parameter = Parameter("out", "i32", Access.OUT)
    spills = Program("spills", "gfx1100", "spills", code, (parameter,), 64, 0)
    card = make(cache=cache)
    device = boot(card)
    out = device.allocate(4 * 64, "out")
    assert load(code, "spills").descriptor.private_segment_bytes >= 256
    device.prepare([Launch(spills, 3, (out.region(),), False)]).run()
    lanes = np.arange(64)
    found = device.copy_out(out.region(), np.int32)
    np.testing.assert_array_equal(found, 3 * (lanes ^ 63) + lanes)
    device.close()
    assert card.notes == []
