"""The fixtures of `tests.unit.ops`, on the PTX of NVIDIA targets instead of on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.softcard.choice import mark_slow
from tests.softcard.ptx_device import PtxDevice
from tests.unit.ops.conftest import Runner, check

from exosuit.kernel import Kernel, Target
from exosuit.ops.variants import variant

__all__ = ["check"]

EVERYTHING = os.environ.get("EXOSUIT_TEST_EVERY_PTX") == "1"
"""Translating all kernels takes a quarter of an hour; without this a choice of them is tested."""
_FORMATS = {"sm_80": ("Q4_K", "Q6_K", "Q8_0", "MXFP4", "F16"), "sm_120": ("Q4_K", "BF16")}
_ALSO_ON_SM_120 = ("norm", "rotary", "elementwise", "routing", "rows", "products")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    left_out = [] if EVERYTHING else [item for item in here if not _is_chosen(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
    mark_slow(items, Path(__file__).parent)


def _is_chosen(item: pytest.Item) -> bool:
    """All of sm_80 but for products, of which some formats stand for the others."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    target, room = parameters.get("run"), item.path.stem.removeprefix("test_ptx_")
    if target is None:
        return False  # needs no device: `tests.unit.ops` has it
    if target != "sm_80" and room not in _ALSO_ON_SM_120:
        return False
    named = getattr(parameters.get("format"), "name", parameters.get("name"))
    if room != "products" or named is None:
        return True
    return named in _FORMATS[target] and (parameters.get("tokens", 1) < 16 or named == "Q4_K")


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
