"""The bare boot, against strict software cards: every state they are found in, ways to fail."""

from __future__ import annotations

import contextlib
import json

import pytest
from tests.softcard.amd_cards import check_it_copies, killed_at
from tests.softcard.nvidia_cards import CHIPS, boot, boot_route, make

from exosuit.clock import ManualClock
from exosuit.driver.boot import BootStep
from exosuit.driver.nvidia.bare_metal import Card
from exosuit.driver.nvidia.bare_metal.attach import State
from exosuit.errors import (
    BootFailed,
    CardHung,
    ExosuitError,
    LinkLost,
)
from exosuit.silicon.pci import Command
from exosuit.softcard.direct import DirectLink
from exosuit.softcard.faults import FaultKind
from exosuit.softcard.nvidia.firmware import SyntheticFirmware
from exosuit.trace.decode import Decoder
from exosuit.trace.recorder import Recorder
from exosuit.trace.tape import Tape
from exosuit.units import MiB

SPEC = "vram=1G,strict"
LINKS = ["slot", "tb3", "tb4", "usb4", "tb5", "usb3"]


@pytest.mark.parametrize("chip", CHIPS)
def test_every_card_boots_and_the_next_process_boots_it_again(chip: str):
    card = make(f"{chip},{SPEC}")
    for expected in (State.COLD, State.USED, State.USED):
        device = boot(card)
        assert device.route.card.found is expected
        check_it_copies(device)
        device.close()
        assert not card.config.command.bus_master
        assert not card.host.mappings
        assert not card.left_alive
    assert card.notes == []


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_what_a_boot_costs(chip: str, link: str):
    """Under 5 s of virtual time over any tunnel; waits of the driver itself included."""
    card = make(f"{chip},vram=1G,link={link}")
    clock = ManualClock()
    route = boot_route(card, clock=clock)
    counters = route.link.counters
    assert counters.round_trips <= 350
    assert counters.writes <= 500
    assert clock.now() + card.meter.now_ns / 1e9 < 5
    route.stop()


@pytest.mark.parametrize("chip", CHIPS)
def test_a_small_window(chip: str):
    """256 MiB of 2 GiB: everything that the host writes lies within it."""
    card = make(f"{chip},vram=2G,bar=256M,strict")
    for _ in range(2):
        device = boot(card)
        check_it_copies(device, 9 << 20)
        most = device.route.take(1500 << 20, "more than the window shows")
        check_it_copies(device)
        device.route.give(most)
        device.close()
    assert card.notes == []


@pytest.mark.parametrize("chip", CHIPS)
def test_writes_to_the_cards_memory_come_in_small_bursts(chip: str):
    """No more in a row than a tunnelled link stands, at the link itself."""
    card = make(f"{chip},vram=2G,strict")
    bursts = [0]

    class Counting(DirectLink):
        def bar(self, index: int):
            bar = super().bar(index)
            if index != 1:
                return bar
            write, write32, read32 = bar.write, bar.write32, bar.read32

            def counted(size: int) -> None:
                bursts.append(bursts.pop() + size)
                assert bursts[-1] <= 1024

            bar.write = lambda offset, data: (counted(len(data)), write(offset, data))[1]
            bar.write32 = lambda offset, value: (counted(4), write32(offset, value))[1]
            bar.read32 = lambda offset: (bursts.append(0), read32(offset))[1]
            return bar

    device = boot(card, Counting(card))
    device.route.take(1 << 30, "weights")
    check_it_copies(device)
    device.close()
    assert len(bursts) > 20


def test_behind_intels_bridge_the_link_is_left_alone():
    """A firmware that retrains the link loses it there; told not to, it does not."""
    card = make(f"ad102,{SPEC}")
    card.retrains = True
    with pytest.raises(LinkLost) as caught:
        boot(card)
    assert caught.value.fields["step"] == "gsp"
    assert not card.host.mappings
    card = make(f"ad102,{SPEC}")
    card.retrains = True
    device = boot(card, is_pinned=True)
    check_it_copies(device)
    device.close()
    assert card.notes == []


@pytest.mark.parametrize("chip", CHIPS)
def test_steps_are_told_marked_and_measured(tmp_path, chip: str):
    card = make(f"{chip},{SPEC}")
    told: list[tuple[str, int, int]] = []

    def progress(step: BootStep, index: int, count: int) -> None:
        told.append((step.name, index, count))
        assert len(step.why.split()) > 3

    path = tmp_path / "boot.tape"
    with Recorder(DirectLink(card), path) as link:
        driver = Card(link, SyntheticFirmware(), ManualClock(), progress)
        driver.boot()
        driver.stop()
    names = [name for name, _, _ in told]
    assert names[:5] == ["identify", "windows", "chip", "files", "state"]
    assert names[-5:] == ["gsp", "vram", "addresses", "golden", "channels"]
    assert [report.name for report in driver.reports] == names
    tape = path.read_text()
    assert all(json.dumps(name) in tape for name in names)


_BY_HOST = [
    "W BAR0+111668  GSP_RISCV_BCR_CTRL = 00000000", "BROM_PARAADDR", "startcpu=1",
    "VBIOS_SCRATCH[14]", "WPR2_ADDR_HI", "core_select=1 brfetch=1", "W BAR0+110040  GSP_MAILBOX0",
    "SEC2_MAILBOX0", "R BAR0+840040  SEC2_MAILBOX0 = 00000000",
]  # fmt: skip
_BY_FSP = ["W BAR0+8f2c04", "W BAR0+8f2c00", "R BAR0+8f2c80", "GSP_HWCFG2"]
_REST = [
    "active_stat=1", "GSP_INIT_DONE", "W BAR0+1704  BAR1_BLOCK", "INVALIDATE", "ROOT 0xc1e00004",
    "FIFO_GET_DEVICE_INFO_TABLE", "COPY_SERVER_RESERVED_PDES", "Gpfifo", "CONTEXT_BUFFERS_INFO",
    "GPU_PROMOTE_CTX", "Compute", "Copy", "ROOT 0xc1000000", "SET_PAGE_DIRECTORY", "CHANNEL_GROUP",
    "CONTEXT_SHARE", "Gpfifo", "Compute", "WorkSubmitToken", "GPU_PROMOTE_CTX", "GPU_PROMOTE_CTX",
    "Gpfifo", "Copy", "WorkSubmitToken", "DEBUGGER", "Schedule", "STATIC_KGR_GET_INFO",
]  # fmt: skip


@pytest.mark.parametrize(("chip", "start"), [("ad102", _BY_HOST), ("gb202", _BY_FSP)])
def test_the_order_of_a_boot_on_its_tape(tmp_path, chip: str, start: list[str]):
    """As nvidia.md 8.4 tells what hardware wants; by the words of the tracer."""
    path = tmp_path / "boot.tape"
    with Recorder(DirectLink(make(f"{chip},{SPEC}")), path) as link:
        driver = Card(link, SyntheticFirmware(), ManualClock())
        driver.boot()
        driver.stop()
    expected = [
        "BOOT_42", "WPR2_ADDR_HI", "GFW_PROGRESS", "VRAM_MIB", "bus_master=1", "libos arguments",
        "WPR meta", "GSP_SET_SYSTEM_INFO", "SET_REGISTRY", *start, *_REST,
    ]  # fmt: skip
    lines = [line.text for line in Decoder(Tape.load(path)).lines()]
    at = 0
    for word in expected:
        found = next((i for i in range(at, len(lines)) if word in lines[i]), None)
        assert found is not None, f"{word!r} does not come after {lines[at - 1]!r}"
        at = found + 1
    freed = next(i for i, line in enumerate(lines) if line.endswith("free"))
    masters = [i for i, line in enumerate(lines) if "W config+004" in line]
    assert masters[-1] < freed
    assert "bus_master" not in lines[masters[-1]]


def test_the_whole_memory_is_used_but_for_what_firmware_takes():
    card = make(f"ga102,{SPEC}")
    device = boot(card)
    free = device.memory_bytes
    assert 800 * MiB < free < 900 * MiB
    device.route.give(device.route.take(free - 32 * MiB, "all of it"))
    device.close()
    assert card.notes == []


# States ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["ga102", "gb202"])
def test_a_reset_may_take_the_addresses_away(chip: str):
    """macOS puts neither BARs nor the command register back."""
    card = make(f"{chip},{SPEC}")
    object.__setattr__(card.options, "restore_config", False)
    boot(card).close()
    device = boot(card)
    assert device.route.card.found is State.USED
    check_it_copies(device)
    device.close()


def test_memory_decoding_may_be_off():
    """As the extension of the app leaves a card that it closed."""
    card = make(f"gb202,{SPEC}")
    card.config.write(4, Command(), 2)
    device = boot(card)
    check_it_copies(device)
    device.close()
    assert not card.config.command.bus_master


def killed_then_booted(chip: str, access: int) -> None:
    card = make(f"{chip},vram=1G")
    with killed_at(card, access):
        boot(card).close()
    for handle in list(card.host.mappings):
        card.host.unmap(handle)  # its memory goes with it
    device = boot(card)
    check_it_copies(device)
    device.close()


@pytest.mark.parametrize("access", range(0, 640, 53))
@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_a_client_may_be_killed_at_any_access(chip: str, access: int):
    killed_then_booted(chip, access)


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_a_client_may_be_killed_at_every_fifth_access(chip: str):
    for access in range(0, 800, 5):
        killed_then_booted(chip, access)


# Failures -------------------------------------------------------------------------------------


def test_nobody_there():
    card = make(f"gb202,{SPEC}")
    card.unplugged = True
    with pytest.raises(LinkLost, match="no card answers") as caught:
        boot(card)
    assert caught.value.fields["step"] == "identify"


@pytest.mark.parametrize("access", range(25, 640, 61))
@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_the_cable_is_pulled_during_the_boot(chip: str, access: int):
    """Or soon after it; the first to notice says so, and the host's memory is free again."""
    card = make(f"{chip},vram=1G,faults=unplug@{access}")

    def work() -> None:
        device = boot(card)
        with contextlib.closing(device):
            for size in (1000, 9 << 20, 1000):
                check_it_copies(device, size)

    with contextlib.suppress(LinkLost):  # and nothing else
        work()
    assert not card.host.mappings


@pytest.mark.parametrize(
    "access",
    [
        pytest.param(access, marks=[] if access in (40, 195, 350) else [pytest.mark.slow])
        for access in range(40, 480, 31)
    ],
)
@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_firmware_that_never_answers(chip: str, access: int):
    """Ends in BootFailed or CardHung with the step, and the next process boots."""
    card = make(f"{chip},vram=1G,faults=silent@{access}")
    problem = None
    try:
        device = boot(card)
        check_it_copies(device)
        device.close()
    except (BootFailed, CardHung) as error:
        problem = error
    if problem is not None:
        assert problem.fields["step"]
        assert problem.fields.get("waited_for") or problem.fields.get("hwcfg2") is not None
    device = boot(card)
    check_it_copies(device)
    device.close()


@pytest.mark.parametrize("chip", CHIPS)
def test_firmware_that_crashes_leaves_its_log_in_the_error(chip: str):
    card = make(f"{chip},vram=1G")
    route = boot_route(card)
    card.gsp.crash("by this test")
    with pytest.raises(ExosuitError) as caught:
        route.card.channels.read_errors()
    error = caught.value
    assert isinstance(error, CardHung)
    assert error.fields["function"] == 76
    assert any(error.fields["logs"].values())
    route.stop()
    assert not card.host.mappings
    boot(card).close()


@pytest.mark.parametrize("chip", CHIPS)
def test_signed_code_that_ends_with_an_error_is_tried_once_more(chip: str):
    card = make(f"{chip},vram=1G")
    card.suffer(FaultKind.MAILBOX)
    device = boot(card)
    check_it_copies(device)
    device.close()
    resets = []

    def failing() -> None:
        resets.append(True)
        reset()
        card.suffer(FaultKind.MAILBOX)

    card = make(f"{chip},vram=1G")
    reset, card.reset = card.reset, failing
    card.suffer(FaultKind.MAILBOX)
    with pytest.raises(BootFailed) as caught:
        boot(card)
    assert len(resets) == 1  # never on a timer
    assert caught.value.fields["step"] in ("fwsec", "booter", "fsp", "fmc")
    assert not card.host.mappings


def test_a_card_whose_memory_stays_protected_asks_for_the_switch():
    card = make("ad102,vram=1G")
    boot(card).close()
    card.suffer(FaultKind.POISON)
    with pytest.raises(BootFailed, match="still holds its memory") as caught:
        boot(card)
    assert "off and on" in caught.value.next
    assert caught.value.fields["wpr2"]
    assert caught.value.fields["step"] == "reset"


@pytest.mark.parametrize("access", [*range(1, 420, 23)])
@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_one_read_of_ones_is_survived_or_told(chip: str, access: int):
    """A completion time-out: nothing is taken for an answer that is none."""
    card = make(f"{chip},vram=1G,faults=ones@{access}")
    with contextlib.suppress(LinkLost, BootFailed):
        device = boot(card)
        check_it_copies(device)
        device.close()
    assert not card.host.mappings
    device = boot(card)
    check_it_copies(device)
    device.close()
