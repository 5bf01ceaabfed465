"""The boot, against a strict software card: every state it may be found in, every way to fail."""

from __future__ import annotations

import contextlib
import json

import pytest
from tests.softcard.amd_cards import SPEC, boot, check_it_copies, killed_at, make

from exosuit.clock import ManualClock
from exosuit.driver.amd import Card
from exosuit.driver.amd.attach import State
from exosuit.driver.boot import BootStep
from exosuit.errors import (
    BootFailed,
    CorruptFile,
    ExosuitError,
    LinkLost,
    UnsupportedCard,
)
from exosuit.silicon.amd.chips import CHIPS
from exosuit.silicon.pci import Command
from exosuit.softcard.amd.firmware import SyntheticFirmware
from exosuit.softcard.direct import DirectLink
from exosuit.trace.recorder import Recorder

TARGETS = [chip.target for chip in CHIPS]


@pytest.mark.parametrize("target", TARGETS)
def test_every_chip_boots_cold_then_warm(target: str):
    card = make(f"{target},vram=256M,strict")
    for expected in (State.COLD, State.WARM, State.WARM):
        device = boot(card)
        assert device.card.found is expected
        assert device.target == target
        check_it_copies(device)
        device.close()
    assert card.notes == []
    assert card.mode1_resets == 0


@pytest.mark.parametrize("link", ["slot", "tb3", "tb4", "usb4", "tb5", "usb3"])
def test_a_cold_boot_takes_less_than_half_of_what_others_take(link: str):
    """tinygrad 0.14.0 boots this card with 1,640 round trips and 25,420 posted writes."""
    card = make(f"gfx1100,link={link}")
    device = boot(card)
    counters = device.link.counters
    assert counters.round_trips <= 200
    assert counters.writes <= 600
    if link != "usb3":
        assert card.meter.now_ns < 0.01e9
    assert card.meter.now_ns < 2e9
    device.close()


@pytest.mark.parametrize("target", ["gfx1100", "gfx1201"])
def test_a_small_window(target: str):
    """256 MiB of 1 GiB: the discovery table is read dword by dword, everything else fits."""
    card = make(f"{target},vram=1G,bar=256M,strict")
    for expected in (State.COLD, State.WARM):
        device = boot(card)
        assert device.card.found is expected
        check_it_copies(device, 9 << 20)
        top = device.allocate(700 << 20, "more than the window shows")
        device.free(top)
        device.close()
    assert card.notes == []


def test_the_whole_memory_is_used_and_no_more():
    card = make()
    device = boot(card)
    assert device.memory_bytes == (256 - 64 - 32 - 16) << 20
    device.close()


def test_steps_are_told_marked_and_measured(tmp_path):
    card = make()
    told: list[tuple[str, int, int]] = []

    def progress(step: BootStep, index: int, count: int) -> None:
        told.append((step.name, index, count))
        assert len(step.why.split()) > 3

    path = tmp_path / "boot.tape"
    with Recorder(DirectLink(card), path) as link:
        driver = Card(link, SyntheticFirmware(), ManualClock(), progress=progress)
        driver.boot()
        driver.stop()
    names = [name for name, _, _ in told]
    assert names[:4] == ["identify", "windows", "discover", "state"]
    assert names[-2:] == ["page tables", "queues"]
    assert [report.name for report in driver.reports] == names
    psp = next(report for report in driver.reports if report.name == "load")
    assert psp.crossed.bytes_written > 1 << 19
    tape = path.read_text()
    assert all(json.dumps(name) in tape for name in names)


# States ---------------------------------------------------------------------------------------


def test_a_card_of_another_driver_is_reset():
    card = make()
    device = boot(card)
    device.card.registers.gfx.SCRATCH_REG[7].write(0xA0000008)
    device.close()
    device = boot(card)
    assert device.card.found is State.UNKNOWN
    assert card.mode1_resets == 1
    check_it_copies(device)
    device.close()
    assert card.notes == []


def test_a_reset_may_take_the_addresses_away():
    """macOS puts neither BARs nor the command register back."""
    card = make()
    object.__setattr__(card.options, "restore_config", False)
    with killed_at(card, 110):
        boot(card)
    assert not card.psp.os_runs  # so that only the bus can reset it
    device = boot(card)
    assert device.card.found is State.UNKNOWN
    check_it_copies(device)
    device.close()


def test_memory_decoding_may_be_off():
    """As the extension of the app leaves a card that it closed."""
    card = make()
    card.config.write(4, Command(), 2)
    device = boot(card)
    check_it_copies(device)
    device.close()
    assert not card.config.command.bus_master


@pytest.mark.parametrize("start", range(0, 700, 29))
def test_a_client_may_be_killed_at_any_access(start: int):
    card = make()
    with killed_at(card, start):
        boot(card).close()
    for handle in list(card.host.mappings):
        card.host.unmap(handle)  # its memory goes with it
    device = boot(card)
    check_it_copies(device)
    device.close()
    device = boot(card)
    assert device.card.found is State.WARM
    device.close()


@pytest.mark.slow
def test_a_client_may_be_killed_at_every_third_access():
    for start in range(0, 720, 3):
        test_a_client_may_be_killed_at_any_access(start)


@pytest.mark.parametrize("start", [0, 3, 17, 60, 111, 190, 260, 300])
def test_a_client_may_be_killed_while_it_takes_over_a_warm_card(start: int):
    card = make()
    boot(card).close()
    with killed_at(card, start):
        boot(card).close()
    for handle in list(card.host.mappings):
        card.host.unmap(handle)
    device = boot(card)
    check_it_copies(device)
    device.close()


# Failures -------------------------------------------------------------------------------------


def test_nobody_there():
    card = make()
    card.unplugged = True
    with pytest.raises(LinkLost, match="no card answers") as caught:
        boot(card)
    assert caught.value.fields["step"] == "identify"


@pytest.mark.parametrize("access", range(25, 630, 41))
def test_the_cable_is_pulled_during_the_boot(access: int):
    """Or soon after it; the first to notice says so, and the host's memory is free again."""
    card = make(f"gfx1100,vram=256M,faults=unplug@{access}")

    def work() -> None:
        device = boot(card)
        with contextlib.closing(device):
            check_it_copies(device, 1000)
            check_it_copies(device, 9 << 20)

    with pytest.raises(LinkLost) as caught:
        work()
    assert caught.value.next
    assert not card.host.mappings


@pytest.mark.parametrize("access", range(60, 400, 19))
def test_firmware_that_never_answers(access: int):
    """Silent firmware ends in BootFailed with the step, or was needed no more."""
    card = make(f"gfx1100,vram=256M,faults=silent@{access}")
    problem = None
    try:
        device = boot(card)
        check_it_copies(device)
        device.close()
    except BootFailed as error:
        problem = error
    if problem is not None:
        assert problem.fields["step"]
        assert problem.fields.get("waited_for") or problem.fields.get("message")


def test_a_card_that_is_none_of_ours():
    class Other(DirectLink):
        def read_config(self, offset: int, size: int) -> int:
            return 0x1234_10DE if (offset, size) == (0, 4) else super().read_config(offset, size)

    card = make()
    with pytest.raises(UnsupportedCard, match="10de:1234"):
        boot(card, Other(card))


def test_an_unknown_chip_is_refused_before_anything_is_written():
    card = make()
    writes = card.meter.writes
    at = card.memory.size - 0x10000
    card.memory.view[at : at + 4] = bytes(4)
    with pytest.raises(UnsupportedCard, match="discovery table"):
        boot(card)
    assert card.meter.writes == writes
    assert not card.config.command.bus_master


class Damaged(SyntheticFirmware):
    def __init__(self, role: str, change) -> None:
        self._role, self._change = role, change

    def read(self, path: str) -> bytes:
        data = super().read(path)
        return self._change(data) if self._role in path else data


@pytest.mark.parametrize("role", ["psp", "smu", "sdma", "mec", "imu", "rlc"])
def test_damaged_firmware_is_refused_and_the_card_can_be_booted_after(role: str):
    card = make(SPEC.replace(",strict", ""))
    with pytest.raises(CorruptFile, match=role) as caught:
        boot(card, firmware=Damaged(role, lambda data: data[:-8]))
    assert caught.value.fields["step"] == "firmware"
    device = boot(card)
    check_it_copies(device)
    device.close()


@pytest.mark.parametrize("access", [*range(1, 420, 17), 158])
def test_one_read_of_ones_is_survived_or_told(access: int):
    """A completion time-out: nothing is taken for an answer that is none."""
    card = make(f"gfx1100,vram=256M,faults=ones@{access}")
    try:
        device = boot(card)
    except ExosuitError as error:
        problem: ExosuitError | None = error
    else:
        problem = None
        check_it_copies(device)
        device.close()
    assert problem is None or isinstance(problem, LinkLost)
    device = boot(card)
    check_it_copies(device)
    device.close()
