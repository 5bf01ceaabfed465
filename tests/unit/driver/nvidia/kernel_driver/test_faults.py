"""What stops a channel, told by notifier and debugger, in words with the nearest buffer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.contract.check_device import fill, program
from tests.softcard.node_cards import start

from exosuit.driver.device import Buffer, Launch
from exosuit.driver.faults import Named
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.driver.nvidia.kernel_driver import faults
from exosuit.driver.nvidia.objects import Errors
from exosuit.errors import CardHung, LinkLost, PageFault
from exosuit.silicon.nvidia.compute import Compute
from exosuit.silicon.nvidia.exceptions import WarpError, Xid
from exosuit.silicon.nvidia.push import COMPUTE, methods
from exosuit.silicon.nvidia.rm_controls import AccessType, FaultType, MmuFault, SmError
from exosuit.units import MiB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel driver is Linux's")

BUFFERS = [Named("kv.layer3", 0x10000, 0x1000)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translated")


def run_wild(device: NvidiaDevice, address: int) -> None:
    wild = Buffer("wild", address, 64)
    device.prepare([Launch(program(device, fill), 1, (wild.region(), 7), False)]).run()


def test_a_page_fault_names_the_nearest_buffer_and_stays(cache: Path):
    device, model = start("gh100", vram=64 * MiB, cache=cache)
    buffer = device.allocate(8192, "kv.layer3")
    with pytest.raises(PageFault) as caught:
        run_wild(device, buffer.address + 8192 + 128)
    assert caught.value.cause.startswith("right past the end of kv.layer3")
    assert "wrote to" in caught.value.what
    assert caught.value.fields["xid"] == Xid.MMU_FAULT
    assert caught.value.fields["address"] == buffer.address + 8192  # the card tells pages
    with pytest.raises(PageFault):
        device.copy_out(buffer.region(), np.uint8)
    device.close()
    assert model.open_files == 0


def test_a_program_that_fails(cache: Path):
    device, _ = start("ad102", vram=64 * MiB, cache=cache)
    buffer = device.allocate(4096, "cells")
    with pytest.raises(CardHung) as caught:
        run_wild(device, buffer.address + 2)
    assert "a misaligned address" in caught.value.what
    assert caught.value.fields["warp_esr"] == WarpError.MISALIGNED_ADDRESS
    assert caught.value.fields["sm"] == 127  # one call tells of 100
    assert caught.value.fields["xid"] == Xid.GRAPHICS_EXCEPTION
    device.close()


def test_a_method_that_its_class_does_not_take():
    device, _ = start("gh100", vram=64 * MiB, strict=False)
    turing = methods(COMPUTE, Compute.SET_OBJECT, 0xC5C0)
    number = device.compute.push(turing)
    with pytest.raises(CardHung) as caught:
        device.compute.wait(number, "a wrong class")
    assert caught.value.fields["xid"] == Xid.CLASS_ERROR
    assert "its class does not take" in caught.value.what
    device.close()


@pytest.mark.parametrize(
    ("access", "fault_type", "says"),
    [
        (AccessType.READ, FaultType.PTE, "read from 0x11000, where nothing is mapped"),
        (AccessType.WRITE, FaultType.RO_VIOLATION, "wrote to 0x11000, which may only be read"),
        (AccessType.ATOMIC, FaultType.ATOMIC_VIOLATION, "updated 0x11000, where atomics"),
        (AccessType.PHYSICAL_WRITE, FaultType.PDE, "wrote to 0x11000, where nothing is mapped"),
        (77, 99, "read from 0x11000, where nothing is mapped"),
    ],
)
def test_translations_that_fail(access: int, fault_type: int, says: str):
    fault = MmuFault.make(address=0x11000, fault_type=fault_type, access_type=access)
    error = faults.explain(Xid.MMU_FAULT, Errors((fault,), ()), BUFFERS)
    assert isinstance(error, PageFault)
    assert says in error.what
    assert "right past the end of kv.layer3" in error.cause


def test_warps_that_stopped():
    stopped = SmError.make(warp_esr=0x123_0009, warp_pc=0x7F00_1230)
    error = faults.explain(Xid.GRAPHICS_EXCEPTION, Errors((), ((5, stopped), (6, stopped))), [])
    assert "failed on 2 SMs: an illegal instruction" in error.what
    assert "SM 5 stopped a warp at code address 0x7f001230" in error.cause
    unknown = faults.explain(13, Errors((), ((0, SmError.make(warp_esr=0x55)),)), [])
    assert "warp error 0x55" in unknown.what


@pytest.mark.parametrize(
    ("xid", "kind", "says"),
    [
        (79, LinkLost, "fallen off the bus"),
        (43, CardHung, "the channel was reset (Xid 43)"),
        (32, CardHung, "a pushbuffer that the card cannot read (Xid 32)"),
        (999, CardHung, "(Xid 999)"),
    ],
)
def test_numbers_alone(xid: int, kind: type, says: str):
    for errors in (None, Errors((), ())):
        error = faults.explain(xid, errors, BUFFERS)
        assert type(error) is kind
        assert says in error.what
