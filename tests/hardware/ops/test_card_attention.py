"""The tests of `tests.unit.ops.test_attention` on the card."""

from __future__ import annotations

from tests.unit.ops.test_attention import *  # noqa: F403
