"""The contract of devices on cards that we booted ourselves: in this process and by sockets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.contract.check_device import (
    CHECKS,
    check_closing,
    check_fences_order_every_kind_of_hazard,
    check_replays_that_are_dropped,
    check_steps_between_fences_are_concurrent,
)
from tests.contract.serving import serving, unix_address
from tests.softcard.amd_cards import check_it_copies
from tests.softcard.nvidia_cards import boot, boot_patiently, boot_route, make

from exosuit.errors import DoesNotFit, PageFault
from exosuit.link.remote import RemoteLink
from exosuit.link.tinygpu import TinyGpuLink
from exosuit.units import MiB

SPEC = "vram=1G,strict"
# Grids run one after the other there, fence or not: launches cannot meet.
SERIAL = [check for check in CHECKS if check is not check_steps_between_fences_are_concurrent]
LONG = (check_fences_order_every_kind_of_hazard, check_replays_that_are_dropped)
CONTRACT = [pytest.param(c, marks=pytest.mark.slow if c in LONG else ()) for c in SERIAL]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check, cache: Path):
    card = make(f"gb202,{SPEC}", cache)
    device = boot(card)
    check(device)
    device.close()
    assert card.notes == []
    assert not card.host.mappings


def test_closing(cache: Path):
    check_closing(lambda: boot(make(f"ad102,{SPEC}", cache)))


@pytest.mark.parametrize("chip", ["ga102", "ad102", "gb202"])
@pytest.mark.parametrize("flavour", ["unix", "tcp"])
def test_by_sockets_one_process_after_another(chip: str, flavour: str, tmp_path: Path):
    """Also where host memory is not mapped, and every look at it is a request."""
    card = make(f"{chip},{SPEC}")
    card.late = True
    at = unix_address(tmp_path) if flavour == "unix" else "tcp:127.0.0.1:0"
    with serving(card, at) as server:
        for _ in range(2):
            link = (
                TinyGpuLink.open(Path(at.removeprefix("unix:")), name="tinygpu")
                if flavour == "unix"
                else RemoteLink.open(server.address.host, server.address.port)
            )
            device = boot_patiently(card, link)
            check_it_copies(device, 3 * MiB + 5)
            device.close()
    assert card.notes == []


def test_memory_is_given_back_and_does_not_run_out():
    card = make(f"gb202,{SPEC}")
    route = boot_route(card)
    for round in range(3):
        taken = [route.take(64 * MiB, f"part {round}") for _ in range(8)]
        host = [route.take_host(MiB, "host") for _ in range(4)]
        route.flush()
        for memory in (*taken, *host):
            route.give(memory)
    with pytest.raises(DoesNotFit, match="too much") as caught:
        route.take(2048 * MiB, "too much")
    assert caught.value.fields["wanted"] == 2048 * MiB
    route.stop()
    assert card.notes == []


@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_an_access_that_is_not_mapped_names_the_nearest_buffer(chip: str):
    card = make(f"{chip},vram=1G")
    device = boot(card)
    buffer = device.allocate(3 * MiB, "weights of layer 3")
    data = np.zeros(3 * MiB, np.uint8)
    card.page_fault = True

    def copy() -> None:
        device.copy_in(buffer.region(), data)
        device.copy_out(buffer.region(), np.uint8)

    with pytest.raises(PageFault, match="0x") as caught:
        copy()
    assert caught.value.fields["nearest"]
    assert any("Xid 31" in report for report in caught.value.fields["reports"])
    device.close()
    device = boot(card)
    check_it_copies(device)
    device.close()
