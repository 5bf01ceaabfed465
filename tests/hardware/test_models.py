"""Models on the card answer as on the CPU: the tests of `test_models_gfx`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.hardware.conftest import open_card
from tests.peers.conftest import peer, random_model
from tests.softcard.test_models_gfx import (
    cache,
    test_decoding_reads_nothing_from_the_card,
    test_random_models,
    test_smollm2,
    test_stories,
)

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.device import Device
from exosuit.kernel import Target

__all__ = [
    "cache", "peer", "random_model", "test_decoding_reads_nothing_from_the_card",
    "test_random_models", "test_smollm2", "test_stories",
]  # fmt: skip


@pytest.fixture(scope="module")
def devices() -> Iterator[tuple[Device, Device]]:
    cpu, card = CpuDevice(Target.host().name), open_card()
    yield cpu, card
    cpu.close()
    card.close()
