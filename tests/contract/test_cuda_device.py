"""`CudaDevice` passes the contract of devices, over the fake libcuda, and misuses nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.contract.check_device import CHECKS, check_closing, check_two_at_once
from tests.softcard.libcuda import Libcuda

from exosuit.driver.cuda import CudaDevice


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translated")


@pytest.fixture
def libcuda(cache: Path) -> Iterator[Libcuda]:
    fake = Libcuda(cache, cards=2)
    yield fake
    fake.close()
    assert not fake.misuses


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_one_card(check, libcuda: Libcuda) -> None:
    with closing(CudaDevice(libcuda.library(), is_present=libcuda.is_present)) as device:
        check(device)


@pytest.mark.parametrize("check", [check_two_at_once, check_closing])
def test_cards_opened_by_the_check(check, libcuda: Libcuda) -> None:
    check(lambda: CudaDevice(libcuda.library()))
