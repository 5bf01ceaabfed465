"""The tests of `tests.unit.ops.test_bits` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_bits import *  # noqa: F403
