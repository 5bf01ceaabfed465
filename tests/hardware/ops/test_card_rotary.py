"""The tests of `tests.unit.ops.test_rotary` on the card."""

from __future__ import annotations

from tests.unit.ops.test_rotary import *  # noqa: F403
