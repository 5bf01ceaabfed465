"""The tests of `tests.unit.ops.test_routing` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_routing import *  # noqa: F403

pytestmark = pytest.mark.slow
