"""The tests of `tests.unit.ops.test_norm` on the card."""

from __future__ import annotations

from tests.unit.ops.test_norm import *  # noqa: F403
