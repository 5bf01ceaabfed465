"""The tests of `tests.unit.ops.test_masking` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.unit.ops.test_masking import *  # noqa: F403
