"""A card through NVIDIA's kernel driver passes the contract of devices, over the strict model.

PTX stands in for machine code. Hopper's QMDs (version 4) with every check; the others by some.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.contract.check_device import (
    CHECKS,
    check_arguments_arrive,
    check_closing,
    check_every_group_runs_once,
    check_steps_between_fences_are_concurrent,
    check_two_at_once,
)
from tests.softcard.node_cards import start, start_other

from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.units import MiB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel driver is Linux's")


SERIAL = [check for check in CHECKS if check is not check_steps_between_fences_are_concurrent]
"""The model runs one grid at a time."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translated")


@pytest.fixture(scope="module")
def hopper(cache: Path) -> Iterator[NvidiaDevice]:
    device, model = start("gh100", vram=512 * MiB, cache=cache)
    yield device
    device.close()
    assert model.notes == []
    assert model.open_files == 0


@pytest.mark.parametrize("check", SERIAL, ids=lambda check: check.__name__)
def test_hopper(check, hopper: NvidiaDevice) -> None:
    check(hopper)


@pytest.mark.parametrize(
    ("card", "version"), [("ga100", "570.144"), ("ad102", "595.45.04"), ("gb202", "590.48.01")]
)
def test_others(card: str, version: str, cache: Path) -> None:
    device, model = start_other(card, "sm_90", version=version, vram=512 * MiB, cache=cache)
    check_arguments_arrive(device)
    check_every_group_runs_once(device)
    device.close()
    assert model.notes == []


@pytest.mark.parametrize("check", [check_two_at_once, check_closing])
def test_cards_opened_by_the_check(check, cache: Path) -> None:
    with ExitStack() as stack:

        def make() -> NvidiaDevice:
            device, model = start("ad102", vram=256 * MiB, cache=cache)
            stack.callback(lambda: model.notes == [] or pytest.fail(str(model.notes)))
            return device

        check(make)
