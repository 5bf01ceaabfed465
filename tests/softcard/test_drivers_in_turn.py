"""tinygrad and our driver on one card, one after the other: each takes over from the other.

Neither knows the other's mark, so each finds a card in an unknown state and starts it over.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.check_device import check_arguments_arrive
from tests.contract.serving import serving
from tests.softcard.amd_cards import boot, check_it_copies
from tests.softcard.test_tinygrad_amd import card, drive

from exosuit.driver.amd.attach import State

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ending", ["boot", "boot,die"])
def test_ours_after_tinygrad_and_tinygrad_after_ours(ending: str, tmp_path: Path):
    chosen = card()
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), ending, tmp_path)
    device = boot(chosen)
    assert device.card.found is State.UNKNOWN
    assert chosen.mode1_resets == 1
    check_it_copies(device)
    check_arguments_arrive(device)
    device.close()
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies,kernels", tmp_path)
    assert chosen.mode1_resets == 2
    device = boot(chosen)
    check_it_copies(device)
    device.close()
    assert chosen.notes == []
