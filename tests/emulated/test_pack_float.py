"""The tests of `tests.unit.ops.test_pack_float` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_pack_float import *  # noqa: F403

pytestmark = pytest.mark.slow
