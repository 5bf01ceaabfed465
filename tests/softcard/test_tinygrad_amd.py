"""An independent driver on our cards: PyPI tinygrad boots them strictly, copies and computes.

tinygrad drives real RX 7900 and RX 9070 cards with this very code. It runs in processes of its
own, reaches the card over the wire protocol and compiles its kernels with its own compiler. A note
of the card is a failure: nothing that tinygrad does may look wrong to it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.serving import serving

from exosuit.silicon.amd.chips import find_chip
from exosuit.softcard.amd.card import AmdCard
from exosuit.softcard.card import Options
from exosuit.units import MiB

pytestmark = pytest.mark.slow

LLVM = Path("/usr/lib/llvm-19/lib/libLLVM-19.so")
CHILD = Path(__file__).with_name("tinygrad_child.py")
ROOT = CHILD.parents[2]


def card(target: str = "gfx1100", bar: int = 0) -> AmdCard:
    options = Options(vram=1024 * MiB, bar=bar, strict=True)
    return AmdCard(find_chip(target), options)


def drive(card: AmdCard, address: str, works: str, folder: Path) -> str:
    """Run tinygrad in a process of its own; what it printed."""
    if ("kernels" in works or "graphs" in works) and not LLVM.exists():
        pytest.skip(f"tinygrad's compiler needs {LLVM}")
    environment = {
        **os.environ,
        "DEV": "PCI+AMD:LLVM",
        "LLVM_PATH": str(LLVM),
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    if address.startswith("unix:"):
        environment["APL_REMOTE_SOCK"] = address.removeprefix("unix:")
    else:
        environment["REMOTE"] = address.removeprefix("tcp:")
    command = [sys.executable, str(CHILD), card.chip.target, works]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    expected = 7 if works.endswith("die") else 0
    assert done.returncode == expected, f"{done.stderr[-4000:]}\n{card.notes}"
    assert card.notes == []
    return done.stdout


@pytest.mark.parametrize("flavour", ["tcp", "unix"])
def test_cold_warm_and_after_a_killed_client(flavour: str, tmp_path: Path):
    chosen = card()
    listen = "tcp:127.0.0.1:0" if flavour == "tcp" else f"unix:{tmp_path / 'card'}"
    with serving(chosen, listen, 30) as server:
        address = str(server.address)
        drive(chosen, address, "copies,kernels,graphs", tmp_path)
        assert chosen.mode1_resets == 0
        pieces = list(chosen.psp.pieces)
        drive(chosen, address, "copies", tmp_path)  # warm: nothing is loaded again
        assert chosen.psp.pieces == pieces
        drive(chosen, address, "boot,die", tmp_path)
        drive(chosen, address, "copies,kernels", tmp_path)
        assert chosen.mode1_resets == 1
        assert chosen.psp.pieces == pieces


def test_a_cold_boot_costs_what_it_costs_elsewhere(tmp_path: Path):
    """softcard.md counts 1,640 round trips and 25,420 posted writes to an opened device."""
    chosen = card()
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "boot,die", tmp_path)
    trips = chosen.meter.reads + chosen.meter.config_accesses
    assert trips == pytest.approx(1640, rel=0.05)
    assert chosen.meter.writes == pytest.approx(25_420, rel=0.05)


def test_a_window_of_256_mib(tmp_path: Path):
    chosen = card(bar=256 * MiB)
    chosen.late = True  # engines begin when the host looks, and not in the order it asked
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies,kernels", tmp_path)
        drive(chosen, str(server.address), "copies", tmp_path)
    assert chosen.bar_size(0) == 256 * MiB


def test_a_chip_with_other_counts_and_another_hub(tmp_path: Path):
    chosen = card("gfx1102")
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies,kernels", tmp_path)


def test_the_next_generation_boots_and_copies(tmp_path: Path):
    chosen = card("gfx1201")
    with serving(chosen, "tcp:127.0.0.1:0", 30) as server:
        drive(chosen, str(server.address), "copies", tmp_path)
        drive(chosen, str(server.address), "copies", tmp_path)
