"""Models through libcuda answer as on the CPU: the tests of `test_models_gfx` on the fake one.

The kernels run as PTX. What is tested beyond `test_models_ptx` is everything between the graph and
the launch: copies, pinned memory, CUDA graphs with their edges, contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.softcard.libcuda import Libcuda
from tests.softcard.ptx_ops.conftest import EVERYTHING
from tests.softcard.test_models_gfx import (
    cache,
    test_decoding_reads_nothing_from_the_card,
    test_smollm2,
    test_stories,
)

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.cuda import CudaDevice
from exosuit.driver.device import Device
from exosuit.kernel import Target

__all__ = ["cache", "test_decoding_reads_nothing_from_the_card", "test_stories"]


if not EVERYTHING:  # a minute for what test_models_ptx has as well
    del test_smollm2


@pytest.fixture(scope="module")
def devices(cache: Path) -> Iterator[tuple[Device, Device]]:
    fake = Libcuda(cache / "host", multiprocessors=2)
    cpu, card = CpuDevice(Target.host().name, 2), CudaDevice(fake.library())
    yield cpu, card
    cpu.close()
    card.close()
    fake.close()
    assert not fake.misuses
