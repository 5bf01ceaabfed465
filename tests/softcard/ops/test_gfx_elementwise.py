"""The tests of `tests.unit.ops.test_elementwise` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_elementwise import *  # noqa: F403
