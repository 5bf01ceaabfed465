"""The fixtures of `tests.unit.kernel`, on emulated AArch64 processors instead of on the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.emulated.machine import EmulatedRunner

from exosuit.kernel import Kernel


@pytest.fixture
def run(run: EmulatedRunner) -> Callable[..., None]:
    """`run(kernel, *arguments, groups=1, **static)`"""

    def call(kernel: Kernel, *arguments: object, groups: int = 1, **static: object) -> None:
        run(kernel, groups, *arguments, **static)

    call.target = run.target
    return call


@pytest.fixture
def run_host(run: Callable[..., None]) -> Callable[..., None]:
    """Here every level runs what is the same on all levels of the host."""
    return run
