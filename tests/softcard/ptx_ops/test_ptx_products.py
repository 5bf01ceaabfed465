"""The tests of `tests.softcard.ops.test_gfx_products` on the PTX of NVIDIA targets."""

from __future__ import annotations

from tests.softcard.ops.test_gfx_products import *  # noqa: F403
