"""The card passes the contract of devices."""

from __future__ import annotations

from contextlib import closing

import pytest
from tests.contract.check_device import CHECKS, check_closing
from tests.hardware.conftest import open_card


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check) -> None:
    with closing(open_card()) as device:
        check(device)


def test_closing() -> None:
    check_closing(open_card)
