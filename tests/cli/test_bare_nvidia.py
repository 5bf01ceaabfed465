"""NVIDIA software cards by name: in processes of their own, opened, explained, ended, traced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.test_cards import start
from tests.contract.check_device import check_arguments_arrive
from tests.contract.serving import serving, unix_address
from tests.softcard.amd_cards import check_it_copies
from tests.softcard.nvidia_cards import make

import exosuit
from exosuit.devices import explain_device
from exosuit.driver.nvidia.bare_metal import BareMetalRoute
from exosuit.driver.nvidia.bare_metal.attach import State
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


@pytest.mark.parametrize("chip", ["gb202", "ad102"])
def test_a_software_card_in_its_own_process(chip: str, settings: Settings, tmp_path: Path):
    tape = tmp_path / "boot.tape"
    traced = replace(settings, trace=str(tape))
    device = exosuit.open_device(f"soft:{chip},vram=1G,link=tb4", traced)
    assert isinstance(device, NvidiaDevice)
    check_it_copies(device)
    check_arguments_arrive(device)
    told = "\n".join(explain_device(device))
    assert "found cold" in told
    assert ("fsp " if chip == "gb202" else "fwsec ") in told
    device.close()
    assert '"golden"' in tape.read_text()


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_process_that_ends_leaves_a_card_for_the_next(how: str, tmp_path: Path):
    card = make("ad102,vram=1G")
    card.late = True
    at = unix_address(tmp_path)
    with serving(card, at):
        name = f"tinygpu:{at.removeprefix('unix:')}"
        with start(name, tmp_path / "home") as process:
            getattr(process, how)()
            process.wait(30)
        if how == "terminate":
            assert not card.left_alive
            assert not card.config.command.bus_master
        settings = Settings(home=str(tmp_path / "home"))
        device = exosuit.open_device(name, settings)
        assert isinstance(device, NvidiaDevice)
        assert isinstance(device.route, BareMetalRoute)
        assert device.route.card.found is State.USED
        check_it_copies(device)
        device.close()
