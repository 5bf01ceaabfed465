"""The tests of `tests.unit.ops.test_sampling` on the card."""

from __future__ import annotations

from tests.unit.ops.test_sampling import *  # noqa: F403
