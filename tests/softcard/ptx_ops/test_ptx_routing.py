"""The tests of `tests.unit.ops.test_routing` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_routing import *  # noqa: F403
