"""The tests of `tests.unit.ops.test_rows` on the card."""

from __future__ import annotations

from tests.unit.ops.test_rows import *  # noqa: F403
