"""The tests of `tests.unit.ops.test_rows` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_rows import *  # noqa: F403
