"""The tests of `tests.unit.ops.test_attention` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_attention import *  # noqa: F403
