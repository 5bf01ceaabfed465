"""Whether there is a card to test on."""

from __future__ import annotations

import pytest
from tests.hardware.conftest import CARD, open_card

from exosuit.kernel import Target


def test_there_is_a_card() -> None:
    if not CARD:
        pytest.skip("EXOSUIT_CARD names no card; docs/first-card.md says how these tests are run")
    device = open_card()
    print(f"{device.name}: {device.target}, {device.memory_bytes >> 20} MiB")
    assert Target.named(device.target).is_gpu
    device.close()
