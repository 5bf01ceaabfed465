"""Launches as packets: the golden stream of a hardware-proven driver, and what is left out."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from tests.contract.check_device import fill, grow, mix

from exosuit.driver.amd.loader import load
from exosuit.driver.amd.replay import Placed, Scratch, Stream, lay_out, release
from exosuit.driver.device import Buffer, Launch
from exosuit.errors import KernelError
from exosuit.kernel import Target, compile_kernel
from exosuit.silicon.amd.code import KernelDescriptor
from exosuit.silicon.amd.compute import Compute, TmpringSize
from exosuit.silicon.amd.pm4 import (
    AcquireMem,
    DispatchDirect,
    EventWrite,
    Pm4,
    ReleaseMem,
    SetShReg,
)
from exosuit.units import GpuAddress

GC_BASE = 0x1260
ENTRY = GpuAddress(0x2000_0001_2300)
ARGUMENTS = GpuAddress(0x2000_0004_5600)


@pytest.fixture(scope="module")
def programs():
    return {k.name: compile_kernel(k, Target.named("gfx1100")) for k in (fill, grow, mix)}


def placed(program) -> Placed:
    return Placed(load(program.code, program.entry), ENTRY)


def launch(program, groups: int = 5) -> Launch:
    regions = [
        Buffer(p.name, 0x2000_0000_1000 * (k + 1), 64).region() if p.access.value != "value" else 3
        for k, p in enumerate(program.parameters)
    ]
    return Launch(program, groups, tuple(regions), False)


def dwords(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def test_one_dispatch_is_the_golden_one(programs):
    """amd.md 7.5, rows 3 to 13: other rows belong to the ring."""
    stream = Stream(Compute, GC_BASE, 65536)
    stream.begin()
    scratch = Scratch(GpuAddress(0x2000_0010_0000), TmpringSize(0x20200))
    stream.launch(launch(programs["fill"]), placed(programs["fill"]), ARGUMENTS, scratch)
    descriptor = placed(programs["fill"]).image.descriptor
    golden = [
        *(0xC0065800, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0, 0xC3F1),
        *(0xC0017600, 0x215, 0),
        *(0xC0037600, 0x204, 0, 0, 0),
        *(0xC0037600, 0x21B, 0, 0, 0),
        *(0xC0037600, 0x207, 32, 1, 1),
        *(0xC0027600, 0x20C, ENTRY >> 8 & 0xFFFFFFFF, ENTRY >> 40),
        *(0xC0027600, 0x212, int(descriptor.rsrc1), int(descriptor.rsrc2)),
        *(0xC0017600, 0x228, int(descriptor.rsrc3)),
        *(0xC0017600, 0x218, 0x20200),
        *(0xC0027600, 0x210, 0x2000_0010_0000 >> 8 & 0xFFFFFFFF, 0x20),
        *(0xC0027600, 0x240, ARGUMENTS & 0xFFFFFFFF, ARGUMENTS >> 32),
        *(0xC0031500, 5, 1, 1, 0x8005),
    ]
    assert dwords(bytes(stream.chunks[0])) == golden


def test_a_second_launch_sets_only_what_differs(programs):
    stream = Stream(Compute, GC_BASE, 65536)
    stream.begin()
    for k in range(2):
        at = GpuAddress(ARGUMENTS + 64 * k)
        stream.launch(launch(programs["grow"]), placed(programs["grow"]), at, None)
    packets = list(Pm4.parse(bytes(stream.chunks[0])))
    kinds = [type(packet) for packet in packets]
    second = kinds[kinds.index(DispatchDirect) + 1 :]
    assert second == [SetShReg, DispatchDirect]
    assert packets[-2].register == 0x240


def test_a_fence_waits_for_waves_and_forgets_what_shaders_cache(programs):
    stream = Stream(Compute, GC_BASE, 65536)
    stream.fence()
    wait, acquire = Pm4.parse(bytes(stream.chunks[0]))
    assert isinstance(wait, EventWrite)
    assert wait.event == 0x407
    assert isinstance(acquire, AcquireMem)
    assert acquire.caches == 0x3F0


def test_workgroup_memory_is_told_in_granules(programs):
    """The compiler leaves it 0 in the descriptor; 1 to 512 bytes are one granule."""
    for size, granules in ((0, 0), (1, 1), (512, 1), (513, 2), (65536, 128)):
        stream = Stream(Compute, GC_BASE, 65536)
        image = placed(programs["fill"]).image
        descriptor = KernelDescriptor(bytearray(bytes(image.descriptor)))
        descriptor.group_segment_bytes = size
        here = Placed(replace(image, descriptor=descriptor), ENTRY)
        stream.launch(launch(programs["fill"]), here, ARGUMENTS, None)
        (rsrc,) = [
            p
            for p in Pm4.parse(bytes(stream.chunks[0]))
            if isinstance(p, SetShReg) and p.register == 0x212
        ]
        assert dwords(bytes(rsrc.rest))[1] >> 15 & 0x1FF == granules


def test_more_workgroup_memory_than_there_is(programs):
    stream = Stream(Compute, GC_BASE, 32768)
    image = placed(programs["fill"]).image
    descriptor = KernelDescriptor(bytearray(bytes(image.descriptor)))
    descriptor.group_segment_bytes = 32769
    with pytest.raises(KernelError, match="workgroup memory") as caught:
        stream.launch(
            launch(programs["fill"]), Placed(replace(image, descriptor=descriptor), ENTRY),
            ARGUMENTS, None,
        )  # fmt: skip
    assert "32 KiB" in caught.value.cause


def test_too_many_packets_for_one_buffer_go_into_several(programs, monkeypatch):
    monkeypatch.setattr("exosuit.driver.amd.replay.MOST_DWORDS", 1000)
    stream = Stream(Compute, GC_BASE, 65536)
    here, one = placed(programs["fill"]), launch(programs["fill"])
    count = 150  # of 9 dwords each, and some more for the first
    for k in range(count):
        stream.launch(one, here, GpuAddress(ARGUMENTS + 16 * k), None)
    assert len(stream.chunks) == 2
    assert all(len(chunk) <= 4000 for chunk in stream.chunks)
    dispatches = sum(
        data.count(struct.pack("<5I", 0xC0031500, 5, 1, 1, 0x8005)) for data in stream.chunks
    )
    assert dispatches == count


def test_argument_blocks_lie_apart_and_are_whole(programs):
    launches = [launch(programs["mix"]), launch(programs["fill"]), launch(programs["grow"])]
    offsets, data = lay_out(launches)
    for one, offset in zip(launches, offsets, strict=True):
        block = one.argument_block()
        assert offset % 16 == 0
        assert data[offset : offset + len(block)] == block
    assert len(data) % 64 == 0


def test_the_signal_is_written_last_and_whole():
    (packet,) = Pm4.parse(release(GpuAddress(0x2000_0000_0000), 1 << 32 | 5))
    assert isinstance(packet, ReleaseMem)
    assert packet.control == 0x70F514
    assert packet.destination.data_sel == 2
    assert (packet.address, packet.value) == (0x2000_0000_0000, 1 << 32 | 5)
