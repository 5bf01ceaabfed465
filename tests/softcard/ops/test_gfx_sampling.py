"""The tests of `tests.unit.ops.test_sampling` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_sampling import *  # noqa: F403
