"""An independent driver on our model of NVIDIA's kernel driver: PyPI tinygrad, by ioctls.

tinygrad drives real Ampere, Ada and Blackwell cards with this very code. It makes its objects, maps
memory, copies, launches and replays graphs on the model; its kernels are its own PTX, wrapped to
look like cubins. Nothing that it does may look wrong to the model, but for one thing that is its
own business: it leaves the dimensions in bank 0 empty, since its kernels never read them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's kernel driver is for Linux"),
]

CHILD = Path(__file__).with_name("tinygrad_nodes_child.py")
ROOT = CHILD.parents[2]


@pytest.mark.parametrize(
    ("card", "version", "works"),
    [
        ("ad102", "580.142", "boot,copies,kernels,graphs"),
        ("gb202", "570.144", "boot,copies,kernels"),
        ("ga102", "610.10", "boot,copies"),
    ],
)
def test_tinygrad_computes(card: str, version: str, works: str, tmp_path: Path):
    environment = {
        **os.environ,
        "DEV": "NVK+NV:PTX",
        "PARALLEL": "0",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, str(CHILD), card, version, works]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("done")] == [
        f"done {work}" for work in works.split(",")
    ]
    notes = [line for line in lines if line.startswith("note")]
    assert [note for note in notes if ": bank 0 says " not in note] == []
    assert bool(notes) == ("kernels" in works)
