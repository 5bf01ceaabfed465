"""Buffers, regions, launches as values; and what is particular to the cpu device."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.cpu.device import default_threads
from exosuit.driver.device import Buffer, Launch
from exosuit.errors import DoesNotFit, ShapeMismatch
from exosuit.kernel import Target
from exosuit.program import Access, Parameter, Program


@pytest.fixture
def device():
    device = CpuDevice(Target.host().name, 2)
    yield device
    device.close()


def program_of(*parameters: tuple[str, Access]) -> Program:
    listed = tuple(
        Parameter(f"p{k}", dtype, access) for k, (dtype, access) in enumerate(parameters)
    )
    return Program("probe", "nowhere", "probe", b"", listed, 1, 0)


# Regions --------------------------------------------------------------------------------------


def test_region_defaults_to_the_rest():
    buffer = Buffer("b", 0x1000, 100)
    assert (buffer.region().offset, buffer.region().size_bytes) == (0, 100)
    assert (buffer.region(30).size_bytes, buffer.region(30).address) == (70, 0x101E)
    assert buffer.region(100).size_bytes == 0


@pytest.mark.parametrize(("offset", "size"), [(-1, None), (101, None), (0, 101), (99, 2), (5, -1)])
def test_regions_lie_within_their_buffer(offset, size):
    with pytest.raises(ShapeMismatch, match="'b'"):
        Buffer("b", 0, 100).region(offset, size)


def test_a_part_of_a_region_may_not_leave_the_buffer():
    region = Buffer("b", 0, 100).region(40, 20)
    assert region.part(10, 10) == region.buffer.region(50, 10)
    with pytest.raises(ShapeMismatch):
        region.part(50, 11)


def test_overlap():
    one, other = Buffer("one", 0, 100), Buffer("other", 0, 100)
    assert one.region(0, 10).overlaps(one.region(9, 1))
    assert one.region(9, 1).overlaps(one.region(0, 10))
    assert one.region(2, 3).overlaps(one.region())
    assert not one.region(0, 10).overlaps(one.region(10, 10))
    assert not one.region().overlaps(other.region())
    assert not one.region(5, 0).overlaps(one.region(5, 0))
    assert not one.region(5, 0).overlaps(one.region())


# Launches -------------------------------------------------------------------------------------


def test_argument_block():
    """Eight bytes each, whatever the type; negative numbers and addresses with a high bit too."""
    program = program_of(
        ("f32", Access.IN),
        ("i32", Access.VALUE),
        ("i64", Access.VALUE),
        ("f32", Access.VALUE),
        ("f32", Access.VALUE),
        ("u8", Access.INOUT),
    )
    high = Buffer("high", 0xFFFF_8000_0000_0000, 100)
    arguments = (high.region(16), -2, 1 << 40, 0.5, 3, high.region())
    block = Launch(program, 1, arguments, False).argument_block()
    expected = struct.pack(
        "<QqqfIfIQ", high.address + 16, -2, 1 << 40, 0.5, 0, 3.0, 0, high.address
    )
    assert block == expected


def test_arguments_are_checked_against_the_parameters():
    memory, number = program_of(("f32", Access.OUT)), program_of(("i32", Access.VALUE))
    region = Buffer("b", 0, 8).region()
    for program, argument in ((memory, 3), (number, region), (number, 0.5)):
        with pytest.raises(AssertionError, match="p0"):
            Launch(program, 1, (argument,), False).argument_block()


# The cpu device -------------------------------------------------------------------------------


def test_freed_memory_is_given_back(device):
    """More than the machine has, a piece at a time: touched, so that it really is memory."""
    piece = 64 << 20
    before = _resident_bytes()
    for _ in range(8):
        buffer = device.allocate(piece, "piece")
        device.host_view(buffer.region(), np.uint8)[::4096] = 1
        device.free(buffer)
    assert _resident_bytes() - before < piece


def test_sparse_memory_is_not_reserved(device):
    before = _resident_bytes()
    buffer = device.allocate(512 << 20, "sparse", sparse=True)
    device.host_view(buffer.region(), np.uint8)[-1] = 1
    assert _resident_bytes() - before < 16 << 20
    device.free(buffer)


def test_refusal_says_how_much_for_what(device):
    with pytest.raises(DoesNotFit) as caught:
        device.allocate(1 << 60, "the weights")
    assert caught.value.what == "1073741824 GiB for the weights cannot be had"


def test_default_threads_are_cores_of_this_process():
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
    device = CpuDevice(Target.host().name)
    assert device.threads == device.parallel_groups == default_threads()
    device.close()


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pytest.skip("only Linux says how much memory a process has at the moment")
