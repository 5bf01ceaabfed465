"""An independent driver computes on our NVIDIA cards: tinygrad's own QMDs, banks and launches.

The cards are booted and driven by tinygrad's code, over the wire protocol; its kernels are PTX that
stands in for machine code on both sides of this test. What is cross-checked so: stand-in images as
an ELF loader that is not ours reads them, QMDs of version 3 and 5 with every field that tinygrad
sets, bank 0, scratch, cache invalidation, launches and releases.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.serving import serving

from exosuit.softcard.card import Options
from exosuit.softcard.chips import make_card
from exosuit.softcard.nvidia.card import NvidiaCard
from exosuit.softcard.nvidia.executor.compute import ComputeEngine
from exosuit.units import MiB

CHILD = Path(__file__).with_name("tinygrad_nv_kernels_child.py")
KNOWN = r"the QMD at 0x[0-9a-f]+: bank 0 says (block|grid) 0x0x0, where \d+x\d+x\d+ was set"
"""tinygrad's kernels know their dimensions when they are compiled, so it leaves these words 0."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gb202", "ad102"])
def test_tinygrad_computes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make_card(name, Options(vram=1024 * MiB, threads=1, cache=tmp_path / "host"))
    assert isinstance(card, NvidiaCard)
    chained: list[int] = []
    compute_step = ComputeEngine.step

    def step(engine: ComputeEngine) -> None:
        compute_step(engine)
        chained.append(len(engine._chain))

    monkeypatch.setattr(ComputeEngine, "step", step)
    with serving(card, "tcp:127.0.0.1:0", 60) as server:
        environment = {
            **os.environ,
            "DEV": "PCI+NV:PTX",
            "REMOTE": str(server.address).removeprefix("tcp:"),
            "PYTHONPATH": str(CHILD.parents[2]),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "TMPDIR": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, str(CHILD)], env=environment, capture_output=True, text=True,
            timeout=400, check=False,
        )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-4000:]}\n{card.notes}"
    assert done.stdout.count("done") == 6
    assert [note for note in card.notes if not re.fullmatch(KNOWN, note)] == []
    assert card.notes  # bank 0 was looked at
    assert max(chained) >= 2  # three grids, of which two were scheduled by the one before
    assert card.bus.panics == []
