"""The tests of `tests.unit.ops.test_routing` on gfx1100 machine code."""

from __future__ import annotations

from tests.unit.ops.test_routing import *  # noqa: F403
