"""Models through NVIDIA's kernel driver answer as on the CPU: QMDs of versions 3, 4 and 5.

What runs is PTX. Beyond `test_models_nvidia`, everything between the device and the card is the
real driver's: objects, mappings by UVM, rings in the card's memory, its doorbell page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.peers.agreement import compare
from tests.softcard.node_cards import start_other
from tests.softcard.ptx_ops.conftest import EVERYTHING
from tests.softcard.test_models_gfx import answers, cache

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.engine.batch import Sampling
from exosuit.kernel import Target
from exosuit.softcard.nvidia.kernel_driver.driver import SoftKernelDriver

__all__ = ["cache"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel driver is Linux's")

GREEDY = Sampling(temperature=0.0)
COMPILED_FOR = "sm_86"
"""Kernels for all of them are the same text, which takes long to compile and to translate."""


@pytest.fixture(scope="module")
def cpu() -> Iterator[CpuDevice]:
    device = CpuDevice(Target.host().name, 2)
    yield device
    device.close()


@pytest.fixture
def card(
    request: pytest.FixtureRequest, cache: Path
) -> Iterator[tuple[NvidiaDevice, SoftKernelDriver]]:
    device, model = start_other(request.param, COMPILED_FOR, cache=cache / "host")
    yield device, model
    device.close()
    assert model.notes == []
    assert model.open_files == 0
    assert model.cards[0].memory.free_bytes == model.cards[0].memory.size


def check(
    path: Path, card: tuple[NvidiaDevice, SoftKernelDriver], cpu: CpuDevice, cache: Path,
    tolerance: float, count: int,
) -> None:  # fmt: skip
    expected, found = (answers(path, one, cache, GREEDY, count=count) for one in (cpu, card[0]))
    agreement = compare(found[0], expected[0])
    print(f"{card[0].name} ({card[0].route.facts.chip}): {agreement}")
    assert agreement.error < tolerance
    assert found[1] == expected[1]


@pytest.mark.parametrize("card", ["gh100", "ad102", "gb202"], indirect=True)
def test_stories(
    card: tuple[NvidiaDevice, SoftKernelDriver], cpu: CpuDevice, shared: Path, cache: Path
) -> None:
    check(shared / "models/stories260k/stories260K-q8_0.gguf", card, cpu, cache, 0.05, 6)


@pytest.mark.slow
@pytest.mark.skipif(not EVERYTHING, reason="a minute for what test_models_ptx has as well")
@pytest.mark.parametrize("card", ["gh100"], indirect=True)
def test_smollm2(
    card: tuple[NvidiaDevice, SoftKernelDriver], cpu: CpuDevice, shared: Path, cache: Path
) -> None:
    path = shared / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    check(path, card, cpu, cache, 0.06, 3)
