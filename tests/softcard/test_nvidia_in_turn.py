"""tinygrad and our driver on one NVIDIA card, one after the other: each starts it over."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.serving import serving
from tests.softcard.amd_cards import check_it_copies
from tests.softcard.nvidia_cards import boot
from tests.softcard.test_tinygrad_nv import card, drive

from exosuit.driver.nvidia.bare_metal.attach import State

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ending", ["copies", "boot,die"])
@pytest.mark.parametrize("name", ["gb202", "ad102"])
def test_ours_after_tinygrad_and_tinygrad_after_ours(name: str, ending: str, tmp_path: Path):
    chosen = card(name)
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), ending, tmp_path)
    device = boot(chosen)
    assert device.route.card.found is State.USED
    check_it_copies(device)
    device.close()
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies", tmp_path)
    device = boot(chosen)
    assert device.route.card.found is State.USED
    check_it_copies(device)
    device.close()
    assert chosen.notes == []
    assert chosen.bus.panics == []
