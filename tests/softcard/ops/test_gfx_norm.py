"""The tests of `tests.unit.ops.test_norm` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_norm import *  # noqa: F403
