"""The tests of `tests.unit.ops.test_elementwise` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_elementwise import *  # noqa: F403
