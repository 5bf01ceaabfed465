"""The tests of `tests.unit.ops.test_activations` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_activations import *  # noqa: F403

pytestmark = pytest.mark.slow
