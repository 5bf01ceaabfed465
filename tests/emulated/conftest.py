"""The fixtures of `tests.unit.ops`, on emulated AArch64 processors instead of on the host."""

from __future__ import annotations

import pytest
from tests.emulated.machine import PROCESSORS, EmulatedRunner, require_tools
from tests.unit.ops.conftest import check

from exosuit.kernel import Target

__all__ = ["check"]


@pytest.fixture(scope="session", params=PROCESSORS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmulatedRunner:
    """`run(kernel, groups, *arguments, **static)` on each level of AArch64."""
    require_tools()
    return EmulatedRunner(Target.named(request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def level(run: EmulatedRunner) -> EmulatedRunner:
    """What the tests of `matmul` call `run`."""
    return run
