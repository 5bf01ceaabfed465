"""Those tests of `tests.unit.kernel.test_portable` that run something, on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.emulated.machine import running_tests
from tests.unit.kernel import test_portable

globals().update(running_tests(test_portable))
pytestmark = pytest.mark.slow
