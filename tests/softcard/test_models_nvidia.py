"""Models through queues, QMDs and copies of NVIDIA software cards answer as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.peers.agreement import compare
from tests.softcard.flat_nvidia import FlatRoute, start_other
from tests.softcard.test_models_gfx import PAGES, PROMPT, answers, cache, generate

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.nvidia.device import NvidiaDevice
from exosuit.engine.batch import Run, Sampling
from exosuit.engine.runner import open_runner
from exosuit.kernel import Target

__all__ = ["cache"]

GREEDY = Sampling(temperature=0.0)
TARGETS = ["sm_86", "sm_89", "sm_90", "sm_120"]
COMPILED_FOR = "sm_86"
"""Kernels for all of them are the same text, which takes long to compile and to translate."""


@pytest.fixture(scope="module")
def cpu() -> Iterator[CpuDevice]:
    device = CpuDevice(Target.host().name, 2)
    yield device
    device.close()


@pytest.fixture
def device(request: pytest.FixtureRequest, cache: Path) -> Iterator[NvidiaDevice]:
    made = start_other(request.param, COMPILED_FOR, cache=cache / "host")
    yield made
    made.close()


@pytest.mark.parametrize("device", TARGETS, indirect=True)
def test_stories(device: NvidiaDevice, cpu: CpuDevice, shared: Path, cache: Path) -> None:
    """QMDs of version 3 (sm_86, sm_89), 4 (sm_90) and 5 (sm_120); what runs is PTX."""
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    expected, found = (answers(path, one, cache, GREEDY) for one in (cpu, device))
    agreement = compare(found[0], expected[0])
    print(f"{device.name}: {agreement}")
    assert agreement.error < 0.05
    assert found[1] == expected[1]
    assert isinstance(device.route, FlatRoute)
    assert device.route.notes == []


@pytest.mark.parametrize("device", ["sm_86"], indirect=True)
def test_a_decoded_token_costs_one_doorbell(
    device: NvidiaDevice, shared: Path, cache: Path
) -> None:
    """Four writes of together 20 bytes, wherever rings and pushbuffers lie."""
    path = shared / "models/stories260k/stories260K-q8_0.gguf"
    file, runner, _ = open_runner(path, device, cache / "programs", context=256)
    tokens = generate(runner, GREEDY, 2)[0]
    route = device.route
    assert isinstance(route, FlatRoute)
    before, doorbells = route.counted.writes, route.doorbells
    written = route.counted.written
    follows = Run(0, (tokens[-1],), len(PROMPT) + 2, PAGES, GREEDY)
    assert runner.run([follows])[0] is not None
    assert route.doorbells - doorbells == 1
    assert route.counted.writes - before == 4
    assert route.counted.written - written == 20
    runner.close()
    file.close()
