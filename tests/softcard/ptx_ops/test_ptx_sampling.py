"""The tests of `tests.unit.ops.test_sampling` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_sampling import *  # noqa: F403
