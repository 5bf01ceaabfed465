"""The tests of `tests.unit.ops.test_attention` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_attention import *  # noqa: F403
