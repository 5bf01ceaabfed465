"""The tests of `tests.unit.ops.test_rotary` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_rotary import *  # noqa: F403
