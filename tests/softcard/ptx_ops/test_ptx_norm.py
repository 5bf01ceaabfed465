"""The tests of `tests.unit.ops.test_norm` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_norm import *  # noqa: F403
