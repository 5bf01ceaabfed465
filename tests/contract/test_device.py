"""The cpu device passes the contract, alone, with as many threads as cores, and with more."""

from __future__ import annotations

import pytest
from tests.contract.check_device import CHECKS, check_closing, check_device, check_two_at_once

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.device import Device
from exosuit.kernel import Target


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_cpu(check, threads: int):
    device = CpuDevice(Target.host().name, threads)
    check(device)
    device.close()


@pytest.mark.parametrize("check", [check_two_at_once, check_closing])
def test_cpus(check):
    check(lambda: CpuDevice(Target.host().name, 2))


def test_the_whole_contract_by_the_name_that_others_use():
    def make() -> Device:
        return CpuDevice(Target.host().name)

    check_device(make)
