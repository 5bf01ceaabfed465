"""The tests of `tests.unit.ops.test_norm` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_norm import *  # noqa: F403

pytestmark = pytest.mark.slow
