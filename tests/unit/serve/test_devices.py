"""Shared devices: turns in order, what is counted, and what everybody learns of a loss."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from tests.unit.serve.rooms import FailingDevice, cpu, lost

from exosuit.driver.device import Buffer
from exosuit.errors import CardBusy, CardHung
from exosuit.serve.devices import Devices, Lease, SharedDevice, Turns


def test_turns_are_given_in_the_order_of_asking():
    turns, order, threads = Turns(), [], []

    def ask(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            while len(turns._queue) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(8))
    with turns:
        assert order


def test_turns_hold_against_many():
    turns, inside, most = Turns(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(300):
            with turns:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (inside, most) == (0, 1)
    assert not turns._held


def test_leases_are_counted_and_closed_whatever_was_left():
    shared = SharedDevice(cpu())
    first, second = Lease(shared), Lease(shared)
    buffers = [first.allocate(1000, "a"), first.allocate(24, "b"), second.allocate(500, "c")]
    assert (first.used_bytes, second.used_bytes, shared.used_bytes) == (1024, 500, 1524)
    first.free(buffers[1])
    first.free(buffers[1])
    assert shared.used_bytes == 1500
    first.copy_in(buffers[0].region(0, 8), np.arange(8, dtype=np.uint8))
    assert first.copy_out(buffers[0].region(2, 3), np.uint8).tolist() == [2, 3, 4]
    first.close()
    first.close()
    assert (first.used_bytes, shared.used_bytes) == (0, 500)
    assert buffers[0].size_bytes == 0
    second.close()
    shared.close()


def test_imported_memory_is_given_back_to_the_device_and_not_counted():
    freed: list[Buffer] = []
    device = cpu()
    device.free = freed.append
    lease = Lease(SharedDevice(device))
    buffer = lease.import_host(np.zeros(64, np.uint8), "file")
    assert lease.used_bytes == 0
    lease.free(buffer)
    assert freed == [buffer]
    device.close()


def test_a_loss_is_told_to_every_lease_and_frees_everything():
    device = FailingDevice("card", 1)
    shared = SharedDevice(device)
    first, second = Lease(shared), Lease(shared)
    region = first.allocate(64, "a").region()
    second.allocate(64, "b")
    device.left = 0
    with pytest.raises(CardHung):
        first.copy_out(region, np.uint8)
    device.left = 10**9  # back, but not to be trusted
    with pytest.raises(CardHung):
        second.allocate(64, "c")
    first.close()
    second.close()
    assert shared.used_bytes == 0
    shared.close()
    device.close()


def test_devices_are_opened_once_set_aside_when_lost_and_forgiven():
    opened: list[str] = []

    def opener(name):
        opened.append(name)
        if name == "dead":
            raise lost(name)
        return FailingDevice(name, 10**9) if name != "cpu" else cpu()

    devices = Devices(["dead", "card", "cpu", "card"], opener)
    assert devices.usable() == ["dead", "card", "cpu"]
    assert [row.state for row in devices.describe()] == ["closed"] * 3
    with pytest.raises(CardHung):
        devices.get("dead")
    assert devices.usable() == ["card", "cpu"]
    assert isinstance(devices.why(), CardHung)
    with pytest.raises(CardHung):
        devices.get("dead")
    assert devices.get("card") is devices.get("card")
    assert opened == ["dead", "card"]
    old = devices.get("card")
    closed: list[str] = []
    old.device.close = lambda: closed.append("card")
    old.lose(lost("card"))
    assert devices.usable() == ["cpu"]
    assert [row.state for row in devices.describe()] == ["lost", "lost", "closed"]
    devices.forgive()
    assert devices.usable() == ["cpu"], "that was just now"
    assert closed == []
    devices.forgive(after_s=0)
    assert closed == ["card"], "or its lock would be in our own way"
    assert devices.usable() == ["dead", "card", "cpu"]
    devices.get("card")
    devices.get("cpu")
    assert opened == ["dead", "card", "card", "cpu"]
    devices.close()


def test_a_busy_device_is_asked_for_again():
    owners = [CardBusy("in use", cause="by a test", next="wait"), None]

    def opener(name):
        owner = owners.pop(0)
        if owner is not None:
            raise owner
        return cpu()

    devices = Devices(["card"], opener)
    with pytest.raises(CardBusy):
        devices.get("card")
    assert devices.usable() == ["card"]
    assert devices.get("card").name == "cpu"
    devices.close()
