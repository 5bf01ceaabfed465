"""The window onto VRAM: small bursts, a probe that sees a window that leads nowhere, its end."""

from __future__ import annotations

import pytest

from exosuit.driver.nvidia.bare_metal.policies import POLICIES, SAFE_BURST_BYTES
from exosuit.driver.nvidia.bare_metal.vram import Vram, VramPart
from exosuit.errors import BootFailed, LinkError
from exosuit.link.function import check_access
from exosuit.silicon.nvidia.chips import CHIPS
from exosuit.units import VramAddress


class Bar:
    """A BAR over bytes; `stuck` reads as that whatever is written."""

    index, address = 1, 0

    def __init__(self, size: int = 1 << 16, stuck: int | None = None) -> None:
        self.size = size
        self.bytes = bytearray(size)
        self.stuck = stuck
        self.log: list[int] = []

    def read32(self, offset: int) -> int:
        check_access("BAR 1", self.size, offset, 4)
        self.log.append(0)
        found = int.from_bytes(self.bytes[offset : offset + 4], "little")
        return found if self.stuck is None else self.stuck

    def write32(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(4, "little"))

    def write(self, offset: int, data: bytes) -> None:
        check_access("BAR 1", self.size, offset, len(data))
        self.log.append(len(data))
        self.bytes[offset : offset + len(data)] = data


@pytest.mark.parametrize("sizes", [[10_000], [4] * 2000, [1020, 8, 1024, 4, 4]])
def test_so_many_bytes_at_most_between_two_reads(sizes: list[int]):
    bar = Bar()
    vram = Vram(bar, SAFE_BURST_BYTES)
    at, expected = 0, b""
    for index, size in enumerate(sizes):
        data = bytes([index % 251 + 1]) * size
        vram.write(at, data)
        at += size
        expected += data
    assert bytes(bar.bytes[:at]) == expected
    burst = most = 0
    for entry in bar.log:
        burst = burst + entry if entry else 0
        most = max(most, burst)
    assert most <= SAFE_BURST_BYTES
    assert vram.largest_burst == most


@pytest.mark.parametrize("stuck", [0xFFFF_FFFF, 0, 0xBADF_5108])
def test_a_window_that_leads_nowhere(stuck: int):
    with pytest.raises(BootFailed, match="does not keep") as caught:
        Vram(Bar(stuck=stuck), 1024).probe(VramAddress(0x100))
    assert caught.value.fields["value"] == stuck
    Vram(Bar(), 1024).probe(VramAddress(0x100))


def test_nothing_is_written_past_the_window():
    bar = Bar(0x1000)
    with pytest.raises(LinkError, match="outside BAR 1"):
        Vram(bar, 1024).write(0xFFC, bytes(8))
    part = VramPart(bar, 0x800)
    part.write32(4, 7)
    assert part.read32(4) == 7
    with pytest.raises(LinkError):
        part.write(0x800, bytes(4))


def test_every_chip_that_is_booted_has_a_policy():
    for chip in CHIPS:
        assert chip.refused or chip.architecture in POLICIES
    assert all(policy.burst_bytes <= SAFE_BURST_BYTES for policy in POLICIES.values())
