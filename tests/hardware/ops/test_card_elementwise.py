"""The tests of `tests.unit.ops.test_elementwise` on the card."""

from __future__ import annotations

from tests.unit.ops.test_elementwise import *  # noqa: F403
