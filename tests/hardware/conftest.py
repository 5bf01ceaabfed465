"""The card that the tests here run on: `EXOSUIT_CARD` names it as `--device` does.

Without it nothing here is collected but one test that says so. `fake` is the libcuda of
`tests.softcard.libcuda`, for trying out the tests themselves.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import pytest

import exosuit
from exosuit.driver.device import Device
from exosuit.settings import Settings

CARD = os.environ.get("EXOSUIT_CARD", "")
collect_ignore_glob = [] if CARD else ["ops/*", "test_contract.py", "test_models.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def open_card() -> Device:
    """The card, opened; one process may do so several times in turn."""
    if CARD != "fake":
        return exosuit.open_device(CARD, Settings.from_environment())
    from tests.softcard.libcuda import Libcuda

    from exosuit.driver.cuda import CudaDevice

    folder = Path(os.environ.get("EXOSUIT_FAKE_CACHE") or tempfile.mkdtemp(prefix="exosuit-fake-"))
    fake = Libcuda(folder)
    atexit.register(fake.close)
    return CudaDevice(fake.library())
