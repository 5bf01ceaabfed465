"""Models through libcuda answer as on the CPU: the tests of `test_models_gfx` on the fake one.

The kernels run as PTX. What is tested beyond `test_models_ptx` is everything between the graph and
the launch: copies, pinned memory, CUDA graphs with their edges, contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.softcard import test_models_gfx as gfx
from tests.softcard.libcuda import Libcuda
from tests.softcard.ptx_ops.conftest import EVERYTHING
from tests.softcard.test_models_gfx import cache, test_decoding_reads_nothing_from_the_card

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.cuda import CudaDevice
from exosuit.driver.device import Device
from exosuit.kernel import Target

__all__ = ["cache", "test_decoding_reads_nothing_from_the_card"]


@pytest.fixture(scope="module")
def devices(cache: Path) -> Iterator[tuple[Device, Device]]:
    fake = Libcuda(cache / "host", multiprocessors=2)
    cpu, card = CpuDevice(Target.host().name, 2), CudaDevice(fake.library())
    yield cpu, card
    cpu.close()
    card.close()
    fake.close()
    assert not fake.misuses


def test_stories(shared: Path, devices: tuple[Device, Device], cache: Path) -> None:
    """With one kind of weights and of cache: `test_models_ptx` has them all."""
    gfx.test_stories("q8_0", "f16", shared, devices, cache)


@pytest.mark.skipif(not EVERYTHING, reason="a minute; EXOSUIT_TEST_EVERY_PTX=1 asks for it")
def test_smollm2(shared: Path, devices: tuple[Device, Device], cache: Path) -> None:
    gfx.test_smollm2(shared, devices, cache)
