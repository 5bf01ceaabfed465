"""The tests of `tests.unit.ops.test_embedding` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_embedding import *  # noqa: F403

pytestmark = pytest.mark.slow
