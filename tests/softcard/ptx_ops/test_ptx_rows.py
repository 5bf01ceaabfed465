"""The tests of `tests.unit.ops.test_rows` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_rows import *  # noqa: F403
