"""The tests of `tests.unit.ops.test_masking` on the card."""

from __future__ import annotations

from tests.unit.ops.test_masking import *  # noqa: F403
