"""Those tests of `tests.unit.kernel.test_words` that run something, on emulated AArch64."""

from __future__ import annotations

import pytest
from tests.emulated.machine import running_tests
from tests.unit.kernel import test_words

globals().update(running_tests(test_words))
pytestmark = pytest.mark.slow
