"""NVIDIA's own firmware files on software cards: our readers and tinygrad's take them apart.

Nothing of them is run. tinygrad checks their hashes as it does for real cards.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.serving import serving
from tests.softcard.amd_cards import check_it_copies
from tests.softcard.debian import unpack
from tests.softcard.nvidia_cards import CHIPS, boot, make
from tests.softcard.test_tinygrad_nv import card, drive

from exosuit.silicon.nvidia.chips import GSP_IMAGE

pytestmark = pytest.mark.slow


class Folder:
    """Files of a folder, whatever their hashes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        return (self._folder / path).read_bytes()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's firmware-nvidia-graphics, unpacked."""
    found = unpack("firmware-nvidia-graphics", "sid", tmp_path_factory.mktemp("firmware"))
    if not (found / GSP_IMAGE).exists():
        pytest.skip(f"this release has no {GSP_IMAGE}")
    return found


@pytest.mark.parametrize("chip", CHIPS)
def test_our_driver_boots_with_them(chip: str, real: Path) -> None:
    made = make(f"{chip},vram=1G,strict")
    device = boot(made, firmware=Folder(real))
    check_it_copies(device)
    device.close()
    assert made.notes == []
    assert made.bus.panics == []


@pytest.mark.parametrize("chip", ["ad102", "gb202"])
def test_tinygrad_boots_with_them(chip: str, real: Path, tmp_path: Path) -> None:
    made = card(chip)
    with serving(made, "tcp:127.0.0.1:0", 30) as server:
        drive(made, str(server.address), "copies", tmp_path, real)
