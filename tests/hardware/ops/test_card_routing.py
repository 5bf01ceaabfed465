"""The tests of `tests.unit.ops.test_routing` on the card."""

from __future__ import annotations

from tests.unit.ops.test_routing import *  # noqa: F403
