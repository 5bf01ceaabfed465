"""The tests of `tests.softcard.ops.test_gfx_products` on the card."""

from __future__ import annotations

from tests.softcard.ops.test_gfx_products import *  # noqa: F403
