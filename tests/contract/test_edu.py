"""The Linux links against a real kernel: QEMU's `edu` device in a guest, through sysfs and vfio.

Needs qemu and a kernel (see tests/qemu/guest.py); about 12 seconds a guest in emulation.
"""

import pytest
from tests.contract.pci_function import CHECKS
from tests.qemu.guest import boot, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "a guest can be run"),
]


@pytest.mark.parametrize(
    ("mode", "link"), [("plain", "sysfs"), ("iommu", "vfio-iommu")], ids=["sysfs", "vfio"]
)
def test_the_contract_in_a_guest(mode: str, link: str):
    console = boot("tests/qemu/edu.py", mode, iommu=mode == "iommu")
    for check in CHECKS:
        assert f"EDU ok {link} {check.__name__}" in console, console[-3000:]
    assert "EDU refused: 0000:01:00.0 is not bound to vfio-pci" in console
    if mode == "iommu":
        assert "EDU refused: the IOMMU translates" in console
    assert "EDU done" in console
