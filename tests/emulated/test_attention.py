"""The tests of `tests.unit.ops.test_attention` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_attention import *  # noqa: F403

pytestmark = pytest.mark.slow
