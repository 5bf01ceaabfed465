"""Runs in a process of its own: tinygrad as a driver of the NVIDIA card at $REMOTE.

Usage: tinygrad_nv_child.py WORK[,WORK...] [FOLDER]. Everything is tinygrad's own but the firmware
files, which it would fetch from the network: they come from the folder, and must be those that it
knows, or synthetic ones stand in their place. Its kernels are machine code that nobody runs here,
so it copies and waits.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from tests.softcard.tinygrad_child import die, use_the_app


def prepare(folder: str) -> None:
    from tinygrad.runtime.support.nv import ip

    from exosuit.softcard.nvidia.firmware import SyntheticFirmware

    files = SyntheticFirmware()

    def stored(path: str, name: str, sha256: str) -> bytes:
        data = (Path(folder) / path / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256, name
        return data

    def synthetic(path: str, name: str, sha256: str) -> bytes:
        return files.read(f"{path}/{name}")

    ip.fetch_fw = stored if folder else synthetic
    if "APL_REMOTE_SOCK" in os.environ:
        use_the_app()


def boot() -> None:
    from tinygrad import Device

    Device["NV"].synchronize()


def copies() -> None:
    from tinygrad import Tensor

    rng = np.random.default_rng(1)
    for size in (1, 17, 4096, 10_000_000):
        data = rng.integers(0, 255, size, dtype=np.uint8)
        back = Tensor(data, device="NV").realize().numpy()
        assert (back == data).all(), size


def main() -> None:
    prepare(sys.argv[2] if len(sys.argv) > 2 else "")
    works = {"boot": boot, "copies": copies, "die": die}
    for work in sys.argv[1].split(","):
        works[work]()
        print("done", work, flush=True)


if __name__ == "__main__":
    main()
