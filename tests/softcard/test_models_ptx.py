"""Models on the PTX of sm_80 answer as they do on the CPU: the tests of `test_models_gfx`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.peers.agreement import compare
from tests.peers.conftest import RandomModel, peer, random_model
from tests.softcard.ptx_device import PtxDevice
from tests.softcard.test_models_gfx import (
    answers,
    cache,
    test_decoding_reads_nothing_from_the_card,
    test_stories,
)

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.device import Device
from exosuit.engine.batch import Sampling
from exosuit.kernel import Target

__all__ = [
    "cache", "peer", "random_model", "test_decoding_reads_nothing_from_the_card", "test_stories",
]  # fmt: skip


@pytest.fixture(scope="module")
def devices(cache: Path) -> Iterator[tuple[Device, Device]]:
    cpu, card = CpuDevice(Target.host().name, 2), PtxDevice("sm_80", cache / "host")
    yield cpu, card
    cpu.close()
    card.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "storage"), [("qwen3", "Q4_K"), ("qwen3moe", "Q6_K")])
def test_random_models(
    name: str,
    storage: str,
    random_model: RandomModel,
    devices: tuple[Device, Device],
    cache: Path,
) -> None:
    path = random_model(name, storage)
    cpu, card = (answers(path, device, cache, Sampling(temperature=0.0)) for device in devices)
    agreement = compare(card[0], cpu[0])
    print(f"{name} {storage}: {agreement}")
    # A mixture may choose another expert where two are alike, hence other logits from there on.
    assert agreement.error < (0.25 if name == "qwen3moe" else 0.06)
    assert np.isfinite(card[0]).all()
