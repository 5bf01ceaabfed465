"""A card through NVIDIA's kernel driver: the order of its bring-up, and every way that it fails."""

from __future__ import annotations

import errno
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.check_device import fill, program
from tests.softcard.node_cards import RunningClock, assemble, open_route, start

from exosuit.driver.device import Launch
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.driver.nvidia.kernel_driver import KernelDriverRoute, client
from exosuit.errors import (
    BootFailed,
    CardBusy,
    CardHung,
    DoesNotFit,
    ExosuitError,
    HelperMissing,
    LinkLost,
    PermissionNeeded,
    ProtocolError,
    UnsupportedCard,
    UsageError,
)
from exosuit.silicon.nvidia.branches import BRANCHES
from exosuit.silicon.nvidia.classes import ComputeClass, GpfifoClass, ObjectClass
from exosuit.silicon.nvidia.rm import Status
from exosuit.silicon.nvidia.rm_controls import GpuUuid, PerfBoost
from exosuit.softcard.nvidia.kernel_driver.driver import ModelOptions, SoftKernelDriver
from exosuit.softcard.nvidia.kernel_driver.products import TURING_CLASSES
from exosuit.trace.nodes import ToldNodes
from exosuit.units import MiB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel driver is Linux's")

BRING_UP = """
open /dev/nvidiactl
RM_ALLOC ROOT_CLIENT
RM_CONTROL BuildVersion
CARD_INFO
open /dev/nvidia0
REGISTER_FD
RM_CONTROL GpuIdInfo
RM_ALLOC DEVICE
RM_ALLOC SUBDEVICE
RM_CONTROL ClassListV2
RM_CONTROL GpuName
RM_CONTROL GrInfo
open /dev/nvidia-uvm
UVM Initialize
open /dev/nvidia-uvm
UVM MmInitialize
RM_CONTROL FbInfo
RM_CONTROL SmOrder
RM_ALLOC Usermode HOPPER_A
open /dev/nvidia0
REGISTER_FD
RM_MAP_MEMORY
mmap
RM_CONTROL PerfBoost
RM_ALLOC VA_SPACE
RM_CONTROL GpuUuid
UVM RegisterGpu
UVM RegisterGpuVaSpace
RM_ALLOC MEMORY_LOCAL
UVM CreateExternalRange
UVM MapExternalAllocation
open /dev/nvidia0
REGISTER_FD
RM_MAP_MEMORY
mmap
RM_ALLOC CHANNEL_GROUP
RM_ALLOC CONTEXT_SHARE
RM_ALLOC MEMORY_SYSTEM
open /dev/nvidiactl
RM_MAP_MEMORY
mmap
RM_ALLOC Gpfifo HOPPER_A
RM_ALLOC Compute HOPPER_A
RM_CONTROL WorkSubmitToken
UVM RegisterChannel
RM_ALLOC DEBUGGER
RM_ALLOC MEMORY_SYSTEM
open /dev/nvidiactl
RM_MAP_MEMORY
mmap
RM_ALLOC Gpfifo HOPPER_A
RM_ALLOC Copy HOPPER_A
RM_CONTROL WorkSubmitToken
UVM RegisterChannel
RM_CONTROL Schedule
"""


def model(**options: Any) -> SoftKernelDriver:
    return SoftKernelDriver(ModelOptions(**{"vram": 64 * MiB, "strict": False, **options}))


def refused(chosen: SoftKernelDriver) -> ExosuitError:
    """The error of a bring-up that must fail, and leave nothing open."""
    with pytest.raises(ExosuitError) as caught:
        open_route(chosen)
    assert chosen.open_files == 0
    assert chosen.resources.clients == {}
    assert chosen.cards[0].memory.free_bytes == chosen.cards[0].memory.size
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "cause", "next"]
    return caught.value


def test_the_order_of_first_use():
    chosen = model(strict=True)
    told: list[tuple[str, str]] = []
    nodes = ToldNodes(chosen, lambda name, ended: told.append((name, ended)))
    route = KernelDriverRoute.open(nodes, 0, RunningClock(chosen), 5.0)
    assert [name for name, _ in told] == BRING_UP.strip().splitlines()
    assert {ended for _, ended in told} == {"done", "OK (0x0)"}
    told.clear()
    route.stop()
    assert ("UVM UnregisterChannel", "OK (0x0)") in told
    assert ("close /dev/nvidiactl", "done") in told


def test_calls_that_fail_are_told():
    chosen = model()
    told: list[str] = []
    nodes = ToldNodes(chosen, lambda name, ended: told.append(f"{name}: {ended}"))
    chosen.escapes.statuses[GpfifoClass.HOPPER_A] = Status.NO_MEMORY
    with pytest.raises(DoesNotFit):
        KernelDriverRoute.open(nodes, 0, RunningClock(chosen), 5.0)
    assert "RM_ALLOC Gpfifo HOPPER_A: NO_MEMORY (0x51)" in told
    with pytest.raises(FileNotFoundError):
        nodes.open("/dev/nvidia7")
    assert told[-1] == "open /dev/nvidia7: ENOENT"
    fd = nodes.open("/dev/nvidiactl")
    with pytest.raises(OSError, match="escape"):
        nodes.ioctl(fd, 0xC0204677, bytearray(32))
    assert told[-1] == "escape 0x77: EINVAL"


@pytest.mark.parametrize("version", ["570.144", "575.64", "580.142", "590.48", "595.45", "610.10"])
@pytest.mark.parametrize("card", ["ga100", "ga102", "ad102", "gh100", "gb202"])
def test_every_card_with_every_branch(card: str, version: str):
    device, chosen = start(card, version=version, vram=64 * MiB)
    data = np.arange(300_001, dtype=np.uint8)
    buffer = device.allocate(data.size, "data")
    device.copy_in(buffer.region(), data)
    assert (device.copy_out(buffer.region(), np.uint8) == data).all()
    product, facts = chosen.cards[0].product, device.route.facts
    assert facts.sm_count == product.shape.sm_count
    assert facts.chip == f"NVIDIA {product.title.removeprefix('NVIDIA ')}"
    assert facts.gpfifo_class == max(product.gpfifo)
    assert isinstance(device.route, KernelDriverRoute)
    assert f"kernel driver {version}" in device.route.explain()[0]
    device.close()
    assert chosen.notes == []
    assert chosen.open_files == 0


def test_the_second_of_two_cards():
    chosen = model(cards=("ad102", "gh100"), strict=True)
    first, second = open_route(chosen, 0), open_route(chosen, 1)
    assert (first.facts.target, second.facts.target) == ("sm_89", "sm_90")
    first.stop()
    assert second.take(4096, "still there").size == 4096
    second.stop()
    assert chosen.open_files == 0


def test_two_clients_of_one_card():
    """Each has an address space of its own; the same addresses are not the same memory."""
    chosen = model(strict=True)
    devices = [
        NvidiaDevice.start(open_route(chosen), assemble, takes_cubins=False) for _ in range(2)
    ]
    buffers = [device.allocate(1 << 16, "data") for device in devices]
    assert buffers[0].address == buffers[1].address
    for value, (device, buffer) in enumerate(zip(devices, buffers, strict=True)):
        device.copy_in(buffer.region(), np.full(1 << 16, value + 1, np.uint8))
    for value, (device, buffer) in enumerate(zip(devices, buffers, strict=True)):
        assert (device.copy_out(buffer.region(), np.uint8) == value + 1).all()
    devices[0].close()
    assert (devices[1].copy_out(buffers[1].region(), np.uint8) == 2).all()
    devices[1].close()
    assert chosen.notes == []
    assert chosen.open_files == 0


def test_a_kernel_that_does_not_tie_spaces_to_processes():
    chosen = model()
    chosen.uvm.mm_status = Status.NOT_SUPPORTED
    open_route(chosen).stop()
    assert chosen.notes == []


def test_a_replay_makes_no_call_of_the_kernel(tmp_path: Path):
    """Once prepared, the host talks to the card alone: words of a ring, GP_PUT, the doorbell."""
    device, chosen = start("gh100", vram=64 * MiB, cache=tmp_path)
    buffer = device.allocate(4 * 64, "cells")
    launch = Launch(program(device, fill), 64, (buffer.region(), 7), False)
    replay = device.prepare([launch] * 3)
    replay.run()
    before = dict(chosen.calls)
    for _ in range(5):
        replay.run()
    assert chosen.calls == before
    assert (device.copy_out(buffer.region(), np.int32) == 7).all()
    assert chosen.calls == before
    replay.close()
    device.close()


# What is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "number", "kind", "says"),
    [
        ("/dev/nvidiactl", errno.ENOENT, HelperMissing, "modprobe nvidia"),
        ("/dev/nvidia-uvm", errno.ENOENT, HelperMissing, "modprobe nvidia-uvm"),
        ("/dev/nvidiactl", errno.EACCES, PermissionNeeded, "/dev/nvidiactl"),
        ("/dev/nvidia0", errno.EACCES, PermissionNeeded, "/dev/nvidia0"),
        ("/dev/nvidia0", errno.EBUSY, CardBusy, "nvidia-smi"),
        ("/dev/nvidia0", errno.EIO, BootFailed, "NVRM"),
    ],
)
def test_nodes_that_do_not_open(path: str, number: int, kind: type, says: str):
    chosen = model()
    chosen.open_errors[path] = number
    error = refused(chosen)
    assert type(error) is kind
    assert says in error.next


def test_a_version_without_tables():
    error = refused(model(version="535.183.01"))
    assert isinstance(error, ProtocolError)
    assert "535.183.01" in error.what
    assert "570, 575, 580, 590, 595, 610" in error.cause
    assert "cuda:0" in error.next
    assert error.fields["step"] == "version"


def test_a_number_that_no_card_has():
    with pytest.raises(UsageError) as caught:
        open_route(model(), 3)
    assert "nvidia:0" in caught.value.cause


def test_turing_is_too_old():
    error = refused(model(classes=TURING_CLASSES))
    assert isinstance(error, UnsupportedCard)
    assert "older than Ampere" in error.cause
    assert error.fields["step"] == "classes"


def test_records_of_another_size(monkeypatch: pytest.MonkeyPatch):
    """A driver of 595 that is taken for one of 570."""
    monkeypatch.setattr(client, "branch_of", lambda version: BRANCHES[570])
    error = refused(model(version="595.45.04"))
    assert isinstance(error, ProtocolError)
    assert "another size" in error.cause
    assert error.fields["status"] == Status.INVALID_PARAM_STRUCT


@pytest.mark.parametrize(
    ("number", "status", "kind", "step"),
    [
        (GpfifoClass.HOPPER_A, Status.INVALID_PARAM_STRUCT, ProtocolError, "compute"),
        (ComputeClass.HOPPER_A, Status.INVALID_CLASS, UnsupportedCard, "compute"),
        (ComputeClass.HOPPER_A, Status.FABRIC_MANAGER_NOT_PRESENT, BootFailed, "compute"),
        (ComputeClass.HOPPER_A, Status.NVLINK_FABRIC_NOT_READY, BootFailed, "compute"),
        (ObjectClass.VA_SPACE, Status.TIMEOUT, CardHung, "addresses"),
        (ObjectClass.CHANNEL_GROUP, Status.RESET_REQUIRED, CardHung, "group"),
        (ObjectClass.SUBDEVICE, Status.GPU_IS_LOST, LinkLost, "card"),
        (GpuUuid.COMMAND, Status.INSUFFICIENT_PERMISSIONS, PermissionNeeded, "addresses"),
        (ObjectClass.MEMORY_SYSTEM, Status.INSUFFICIENT_RESOURCES, DoesNotFit, "compute"),
        (ObjectClass.CONTEXT_SHARE, Status.INVALID_STATE, ProtocolError, "group"),
    ],
)
def test_what_the_driver_refuses(number: int, status: Status, kind: type, step: str):
    chosen = model()
    chosen.escapes.statuses[number] = status
    error = refused(chosen)
    assert type(error) is kind
    assert error.fields["step"] == step
    assert error.fields["status"] == status


def test_clocks_are_not_everybodys():
    chosen = model()
    chosen.escapes.statuses[PerfBoost.COMMAND] = Status.INSUFFICIENT_PERMISSIONS
    open_route(chosen).stop()


def test_a_card_that_is_lost_in_the_middle():
    device, chosen = start("gh100", vram=64 * MiB, strict=False)
    buffer = device.allocate(4096, "data")
    chosen.lose()
    with pytest.raises(LinkLost) as caught:
        device.copy_out(buffer.region(), np.uint8)
    assert "Xid 79" in caught.value.cause
    with pytest.raises(LinkLost):
        device.copy_out(buffer.region(), np.uint8)
    device.close()
    assert chosen.open_files == 0


# Memory ------------------------------------------------------------------------------------------


def test_full_memory_names_the_holders():
    device, chosen = start("gh100", vram=64 * MiB)
    held = device.allocate(40 * MiB, "the weights")
    with pytest.raises(DoesNotFit) as caught:
        device.allocate(40 * MiB, "kv")
    assert "the weights 40 MiB" in caught.value.cause
    assert "exosuit plan" in caught.value.next
    assert chosen.notes == []
    device.free(held)
    device.allocate(40 * MiB, "kv")
    device.close()


def test_memory_comes_back():
    chosen = model(strict=True)
    route = open_route(chosen)
    before = chosen.cards[0].memory.free_bytes
    addresses = set()
    for _ in range(3):
        taken = [route.take(3 * MiB, "a"), route.take_low(100, "b"), route.take_host(5000, "c")]
        assert taken[1].address < 1 << 40
        assert taken[2].address < 1 << 40
        assert taken[2].host is not None
        assert taken[2].host.read(0, 5000) == bytes(5000)
        addresses.add(tuple(memory.address for memory in taken))
        for memory in taken:
            route.give(memory)
    assert len(addresses) == 1
    assert chosen.cards[0].memory.free_bytes == before
    route.stop()
    route.stop()
    assert chosen.notes == []


def test_buffers_do_not_touch():
    route = open_route(model(strict=True))
    taken = sorted(
        (m for size in (1, 4096, 5 * MiB, 2 * MiB) for m in (route.take(size, "x"),)),
        key=lambda memory: memory.address,
    )
    for one, next_one in pairwise(taken):
        assert one.address + one.reserved < next_one.address
    route.stop()


def test_a_killed_process_leaves_nothing():
    """The kernel closes its files in any order, without a word from it."""
    chosen = model()
    route = open_route(chosen)
    route.take(MiB, "weights")
    for fd in sorted(chosen._files):
        chosen.close(fd)
    assert chosen.resources.clients == {}
    assert chosen.cards[0].memory.free_bytes == chosen.cards[0].memory.size
    assert chosen.cards[0].channels == {}
    open_route(chosen).stop()
