"""Channels: entries, GP_PUT and doorbells in order, numbers that wrap, what ends a wait."""

from __future__ import annotations

import struct
import warnings

import pytest
from tests.softcard.flat_nvidia import COMPUTE_CHANNEL, ENTRIES, FlatRoute, RunningClock, start

from exosuit.driver.nvidia.channels import IN_FLIGHT, SLOT_BYTES, Queue
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.driver.nvidia.waiting import Waiting
from exosuit.driver.timeline import has_passed
from exosuit.errors import CardHung, LinkLost
from exosuit.silicon.nvidia.channel import Userd
from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.copy import Copy
from exosuit.silicon.nvidia.push import COMPUTE, COPY, GpEntry, Host, methods, read_methods

NOTHING = methods(COMPUTE, Compute.WAIT_FOR_IDLE, 0)


def made(**options: object) -> tuple[FlatRoute, RunningClock, Queue]:
    clock = RunningClock()
    route = FlatRoute(clock=clock, **options)  # type: ignore[arg-type]
    queue = Queue(route, route.compute, Waiting(route), 0)
    return route, clock, queue


def bind(queue: Queue) -> int:
    return queue.push(methods(COMPUTE, Compute.SET_OBJECT, 0xC7C0))


def test_a_submission_is_an_entry_gp_put_and_a_doorbell():
    route, _, queue = made()
    bind(queue)
    assert route.doorbells == 1
    assert route.compute.userd.read32(Userd.gp_put.offset) == 1
    ring = route.compute.ring.read(0, 8)  # type: ignore[attr-defined]
    entry = GpEntry.decode(ring)
    data = route.memory.read(entry.get << 2, 4 * entry.length)
    written = [(w.method, w.value) for w in read_methods(data)]
    assert written[0] == (0, 0xC7C0)
    assert [method for method, _ in written[1:]] == [0x5C, 0x60, 0x64, 0x68, 0x6C]
    assert written[3] == (Host.SEM_PAYLOAD_LO.description.offset, 1)


def test_the_ring_and_the_slots_are_used_again_and_again():
    route, clock, queue = made()
    clock.work = route.executor.run
    bind(queue)
    for _ in range(3 * ENTRIES):
        number = queue.push(NOTHING)
    queue.wait(number, "all of them")
    assert number == 3 * ENTRIES + 1
    assert route.compute.userd.read32(Userd.gp_get.offset) == number % ENTRIES
    assert not route.faults


def test_no_more_are_on_their_way_than_there_are_slots():
    """A card that does nothing gets IN_FLIGHT submissions and not one more."""
    route, _, queue = made()
    bind(queue)
    for _ in range(IN_FLIGHT - 1):
        queue.push(NOTHING)
    with pytest.raises(CardHung, match="earlier work"):
        queue.push(NOTHING)
    assert route.doorbells == IN_FLIGHT


def test_numbers_may_wrap():
    route, clock, queue = made()
    clock.work = route.executor.run
    queue.wait(bind(queue), "the binding")
    queue.submitted = (1 << 32) - 3
    queue._finished = queue.submitted
    queue.wait(queue.push(NOTHING), "the step there")
    for _ in range(2 * IN_FLIGHT):
        number = queue.push(NOTHING)
        queue.wait(number, "a step")
    assert number > 1 << 32
    assert has_passed(0, 0xFFFF_FFFF)
    assert not has_passed(0xFFFF_FFFF, 0)


def test_a_submission_has_to_fit_its_slot():
    _, _, queue = made()
    with pytest.raises(AssertionError):
        queue.push(bytes(SLOT_BYTES))


def test_a_hang_is_told_once_and_kept():
    route, _, queue = made()
    number = bind(queue)
    with pytest.raises(CardHung, match="did not finish a graph within 20 s") as caught:
        queue.wait(number, "a graph")
    assert caught.value.fields["waited_s"] >= 20
    with pytest.raises(CardHung) as again:
        queue.push(NOTHING)
    assert again.value is caught.value
    assert route.doorbells == 1


def test_what_the_route_finds_ends_a_wait():
    route, _, queue = made()
    number = bind(queue)
    lost = LinkLost("the card is gone", cause="its cable", next="exosuit doctor")

    def check() -> None:
        raise lost

    route.check = check  # type: ignore[method-assign]
    before = route.clock.now()
    with pytest.raises(LinkLost) as caught:
        queue.wait(number, "a graph")
    assert caught.value is lost
    assert route.clock.now() - before < 1


def test_the_route_is_not_asked_while_all_is_well():
    device = start()
    route = device.route

    def check() -> None:
        raise AssertionError("asked")

    route.check = check  # type: ignore[method-assign]
    device.allocate(1 << 20, "cells")
    device.close()


def test_the_greeting_is_tinygrads(monkeypatch: pytest.MonkeyPatch):
    """NVDevice._setup_gpfifos, word for word; its copy class is bound as ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ops_nv = pytest.importorskip("tinygrad.runtime.ops_nv")
    said: list[list[int]] = []
    push = Queue.push

    def listening(queue: Queue, packets: bytes) -> int:
        said.append(list(struct.unpack(f"<{len(packets) // 4}I", packets)))
        return push(queue, packets)

    monkeypatch.setattr(Queue, "push", listening)
    start("sm_89").close()
    setup = ops_nv.NVComputeQueue().setup(
        compute_class=0xC9C0, local_mem_window=0x729300000000, shared_mem_window=0x729400000000
    )
    assert said == [setup._q, ops_nv.NVCopyQueue().setup(copy_class=0xC7B5)._q]


def test_both_channels_are_greeted():
    device = start("sm_90")
    route = device.route
    assert isinstance(route, FlatRoute)
    channels = route.executor.channels
    assert set(channels[COMPUTE_CHANNEL]._engines) == {0xCBC0}
    assert route.doorbells == 2
    device.close()
    assert route.is_stopped


def test_a_card_that_does_not_answer_is_given_up():
    route = FlatRoute(clock=RunningClock())
    with pytest.raises(CardHung, match="the first words on its compute channel"):
        NvidiaDevice.start(route, lambda program: b"")
    assert route.is_stopped


def test_an_unknown_class_stops_the_channel():
    route, clock, queue = made()
    clock.work = route.executor.run
    with pytest.raises(CardHung, match="no object"):
        queue.wait(queue.push(methods(COPY, Copy.SET_OBJECT, 0xC8B5)), "the binding")
