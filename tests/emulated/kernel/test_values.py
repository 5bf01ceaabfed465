"""Those tests of `tests.unit.kernel.test_values` that run something, on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.emulated.machine import running_tests
from tests.unit.kernel import test_values

globals().update(running_tests(test_values))
pytestmark = pytest.mark.slow
