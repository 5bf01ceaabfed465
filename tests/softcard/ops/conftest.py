"""The fixtures of `tests.unit.ops`, on gfx1100 machine code instead of on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.softcard.choice import mark_slow
from tests.softcard.shader_device import ShaderDevice
from tests.unit.ops.conftest import Runner, check

from exosuit.kernel import Kernel, Target
from exosuit.ops.variants import variant

__all__ = ["check"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items, Path(__file__).parent)


class ShaderRunner(Runner):
    """Runs the GPU's variant of each kernel on a `ShaderDevice`."""

    def __init__(self, target: Target, cache: Path | None = None) -> None:
        self.target = target
        self.device = ShaderDevice(target.name, cache)
        self._programs = {}

    def __call__(self, kernel: Kernel, groups: int, *arguments: Any, **static: Any) -> None:
        super().__call__(variant(kernel, self.target), groups, *arguments, **static)


@pytest.fixture(scope="session")
def run() -> Iterator[ShaderRunner]:
    """`run(kernel, groups, *arguments, **static)` on gfx1100."""
    runner = ShaderRunner(Target.named("gfx1100"))
    yield runner
    runner.device.close()
