"""Cards by name, in processes of their own: opened, ended, killed, traced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.check_device import check_arguments_arrive
from tests.contract.serving import serving, unix_address
from tests.softcard.amd_cards import check_it_copies, make

import exosuit
from exosuit.driver.amd import AmdDevice
from exosuit.driver.amd.attach import State
from exosuit.errors import CardBusy, ExosuitError, HelperMissing, UnsupportedCard, UsageError
from exosuit.settings import Settings

WORK = """
import sys, time
import exosuit
device = exosuit.open_device(sys.argv[1])
device.allocate(1 << 20, "held")
print("open", flush=True)
time.sleep(60)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


def start(name: str, home: Path) -> subprocess.Popen[str]:
    """A process that opens the device and holds it."""
    environment = os.environ | {"EXOSUIT_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, name], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_software_card_in_its_own_process(settings: Settings):
    device = exosuit.open_device("soft:gfx1100,vram=256M,link=tb4", settings)
    assert isinstance(device, AmdDevice)
    assert device.name == "soft:gfx1100,vram=256M,link=tb4"
    check_it_copies(device)
    check_arguments_arrive(device)
    device.close()


@pytest.mark.parametrize(
    ("how", "status", "found"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM, State.WARM),
        (signal.SIGINT, 1, State.WARM),
        (signal.SIGKILL, -signal.SIGKILL, State.UNKNOWN),
    ],
)
def test_a_client_that_is_ended_leaves_a_card_for_the_next(
    how: signal.Signals, status: int, found: State, tmp_path: Path, settings: Settings
):
    card = make("gfx1100,vram=256M,strict")
    address = unix_address(tmp_path)
    name = f"tinygpu:{address.removeprefix('unix:')}"
    with serving(card, address):
        with start(name, Path(settings.home)) as process:
            with pytest.raises(CardBusy) as caught:
                exosuit.open_device(name, settings)
            assert str(process.pid) in caught.value.what
            process.send_signal(how)
            ended = process.wait(20)
        assert ended == status or how is signal.SIGINT  # the interpreter's own way to say so
        device = exosuit.open_device(name, settings)
        assert isinstance(device, AmdDevice)
        assert device.card.found is found
        check_it_copies(device)
        device.close()
    assert card.notes == []


FORGETS = """
import sys
import exosuit
def work():
    exosuit.open_device(sys.argv[1]).allocate(1 << 20, "held")
work()
"""


def test_a_card_that_its_owner_forgot_is_stopped_at_the_end(tmp_path: Path, settings: Settings):
    card = make("gfx1100,vram=256M,strict")
    address = unix_address(tmp_path)
    name = f"tinygpu:{address.removeprefix('unix:')}"
    with serving(card, address):
        environment = os.environ | {"EXOSUIT_HOME": settings.home}
        command = [sys.executable, "-c", FORGETS, name]
        subprocess.run(command, env=environment, check=True, timeout=60)
        device = exosuit.open_device(name, settings)
        assert isinstance(device, AmdDevice)
        assert device.card.found is State.WARM
        device.close()


def test_over_tcp(settings: Settings):
    card = make("gfx1100,vram=256M,strict")
    with serving(card, "tcp:127.0.0.1:0") as server:
        name = f"remote:{server.address.host}:{server.address.port}"
        device = exosuit.open_device(name, settings)
        check_it_copies(device)
        device.close()
    assert card.notes == []


def test_a_trace_of_everything(settings: Settings, tmp_path: Path):
    tape = tmp_path / "run.tape"
    device = exosuit.open_device("soft:gfx1100,vram=256M", replace(settings, trace=str(tape)))
    check_it_copies(device)
    device.close()
    text = tape.read_text()
    assert '"queues"' in text
    assert json.loads(text.splitlines()[0])


# What cannot be opened ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "soft", "nvidia:x", "cuda:x", "cpu:1", ""])
def test_names_that_are_none(name: str, settings: Settings):
    with pytest.raises(UsageError) as caught:
        exosuit.open_device(name, settings)
    assert caught.value.next == "exosuit list"


def test_a_card_of_another_kind(settings: Settings):
    with pytest.raises(UnsupportedCard, match="vendor 1234"):
        exosuit.open_device("soft:generic", settings)


def test_a_real_card_needs_its_firmware(settings: Settings, tmp_path: Path, monkeypatch):
    """Served without a mark of being software, it is taken for real, and told so."""
    monkeypatch.setattr("exosuit.devices.is_software", lambda link: False)
    with pytest.raises(HelperMissing, match="firmware") as caught:
        exosuit.open_device("soft:gfx1100,vram=256M", settings)
    assert caught.value.next == "exosuit setup --yes"
    assert caught.value.fields["step"] == "firmware"


def test_auto_takes_the_host_where_no_card_works(settings: Settings, monkeypatch, caplog):
    monkeypatch.setattr(
        "exosuit.devices._ready_cards", lambda settings: [("pci:ffff:ff:1f.7", "a ghost")]
    )
    device = exosuit.open_device("auto", settings)
    assert device.name == "cpu"
    assert "pci:ffff:ff:1f.7 (a ghost) is passed over" in caplog.text
    device.close()


def test_auto_takes_a_card_that_works(settings: Settings, monkeypatch):
    monkeypatch.setattr(
        "exosuit.devices._ready_cards", lambda settings: [("soft:gfx1100,vram=256M", "RX")]
    )
    device = exosuit.open_device("auto", settings)
    assert device.target == "gfx1100"
    device.close()


def test_a_wrong_limit(settings: Settings):
    with pytest.raises(ExosuitError, match="EXOSUIT_HANG"):
        exosuit.open_device("soft:gfx1100,vram=256M", replace(settings, hang="soon"))
