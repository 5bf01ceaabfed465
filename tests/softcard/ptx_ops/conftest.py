"""The fixtures of `tests.unit.ops`, on the PTX of NVIDIA targets instead of on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.softcard.ptx_device import PtxDevice
from tests.unit.ops.conftest import Runner, check

from exosuit.kernel import Kernel, Target
from exosuit.ops.variants import variant

__all__ = ["check"]


class PtxRunner(Runner):
    """Runs the GPU's variant of each kernel on a `PtxDevice`."""

    def __init__(self, target: Target, cache: Path | None = None) -> None:
        self.target = target
        self.device = PtxDevice(target.name, cache)
        self._programs = {}

    def __call__(self, kernel: Kernel, groups: int, *arguments: Any, **static: Any) -> None:
        if "tiles" in kernel.name and static["format"].sub % 32:
            pytest.skip("the matrix unit takes 32 weights that share a scale: ops.products")
        super().__call__(variant(kernel, self.target), groups, *arguments, **static)


@pytest.fixture(scope="session", params=["sm_80", "sm_120"])
def run(request: pytest.FixtureRequest) -> Iterator[PtxRunner]:
    """`run(kernel, groups, *arguments, **static)` on the targets with the fewest and most words."""
    runner = PtxRunner(Target.named(request.param))
    yield runner
    runner.device.close()
