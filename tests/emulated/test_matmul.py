"""The tests of `tests.unit.ops.test_matmul` on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.unit.ops.test_matmul import *  # noqa: F403

del level  # noqa: F821 - the fixture of the host's levels, which ours in conftest stands for
pytestmark = pytest.mark.slow
