"""The fixtures of `tests.unit.ops`, on the card instead of on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.hardware.conftest import open_card
from tests.unit.ops.conftest import Runner, check

from exosuit.driver.device import Device
from exosuit.kernel import Kernel, Target
from exosuit.ops.variants import variant

__all__ = ["check"]


class CardRunner(Runner):
    """Runs the GPU's variant of each kernel."""

    def __init__(self, device: Device) -> None:
        self.target = Target.named(device.target)
        self.device = device
        self._programs = {}

    def __call__(self, kernel: Kernel, groups: int, *arguments: Any, **static: Any) -> None:
        if "tiles" in kernel.name and static["format"].sub % 32:
            pytest.skip("the matrix unit takes 32 weights that share a scale: ops.products")
        super().__call__(variant(kernel, self.target), groups, *arguments, **static)


@pytest.fixture(scope="session")
def run() -> Iterator[CardRunner]:
    runner = CardRunner(open_card())
    yield runner
    runner.device.close()
