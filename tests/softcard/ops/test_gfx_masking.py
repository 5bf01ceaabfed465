"""The tests of `tests.unit.ops.test_masking` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_masking import *  # noqa: F403
