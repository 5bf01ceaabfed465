"""The tests of `tests.unit.ops.test_rotary` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_rotary import *  # noqa: F403
