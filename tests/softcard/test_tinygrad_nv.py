"""An independent driver on our NVIDIA cards: PyPI tinygrad boots them strictly, and copies.

tinygrad drives real cards of these families with this very code. It runs in processes of its own
and reaches the card over the wire protocol. A note of the card is a failure: nothing that tinygrad
does may look wrong to it. Its kernels are machine code, which no software card runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.serving import serving
from tests.softcard.nvidia_cards import CHIPS, EVERY_CARD

from exosuit.silicon.nvidia.rpc import Function
from exosuit.softcard.card import Options
from exosuit.softcard.chips import make_card
from exosuit.softcard.nvidia.card import NvidiaCard
from exosuit.softcard.nvidia.gsp import State
from exosuit.units import MiB

ALL_SOCKETS = [(chip, flavour) for chip in CHIPS for flavour in ("tcp", "unix")]
SOCKETS = ALL_SOCKETS if EVERY_CARD else [("gb202", "tcp"), ("ad102", "unix")]
CHILD = Path(__file__).with_name("tinygrad_nv_child.py")
ROOT = CHILD.parents[2]


def card(name: str, bar: int = 0) -> NvidiaCard:
    made = make_card(name, Options(vram=1024 * MiB, bar=bar, strict=True))
    assert isinstance(made, NvidiaCard)
    return made


def drive(
    card: NvidiaCard, address: str, works: str, folder: Path, firmware: Path | None = None
) -> str:
    """Run tinygrad in a process of its own; what it printed.

    firmware  folder of the vendor's own files, instead of synthetic ones
    """
    environment = {
        **os.environ,
        "DEV": "PCI+NV",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    if address.startswith("unix:"):
        environment["APL_REMOTE_SOCK"] = address.removeprefix("unix:")
    else:
        environment["REMOTE"] = address.removeprefix("tcp:")
    command = [sys.executable, str(CHILD), works, str(firmware or "")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    expected = 7 if works.endswith("die") else 0
    assert done.returncode == expected, f"{done.stderr[-4000:]}\n{card.notes}"
    assert card.notes == []
    assert card.bus.panics == []
    return done.stdout


def test_it_boots_and_copies(tmp_path: Path) -> None:
    chosen = card("gb202")
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies", tmp_path)
    assert chosen.gsp.state is State.UNLOADED
    assert Function.UNLOADING_GUEST_DRIVER in chosen.gsp.requests


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flavour"), SOCKETS)
def test_again_and_after_a_killed_client(name: str, flavour: str, tmp_path: Path) -> None:
    chosen = card(name)
    listen = "tcp:127.0.0.1:0" if flavour == "tcp" else f"unix:{tmp_path / 'card'}"
    with serving(chosen, listen, 30) as server:
        address = str(server.address)
        drive(chosen, address, "copies", tmp_path)
        drive(chosen, address, "boot,die", tmp_path)
        assert chosen.gsp.state is State.RUNNING
        drive(chosen, address, "copies", tmp_path)  # finds WPR2 up, and resets


@pytest.mark.slow
@pytest.mark.parametrize("name", CHIPS if EVERY_CARD else ["ad102"])
def test_a_window_of_256_mib(name: str, tmp_path: Path) -> None:
    chosen = card(name, bar=256 * MiB)
    chosen.host.pieces = 1  # what lies in host memory then, tinygrad takes to be contiguous
    chosen.late = True  # engines begin when the host looks, and not in the order it asked
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies", tmp_path)
    assert chosen.bar_size(1) == 256 * MiB
