"""Runs in a process of its own: tinygrad as a driver of the NVIDIA card at $REMOTE.

Usage: tinygrad_nv_child.py WORK[,WORK...]. Everything is tinygrad's own but the firmware files,
which it would fetch from the network and which have synthetic ones in their place. Its kernels are
machine code that nobody runs here, so it copies and waits.
"""

import sys

import numpy as np
from tests.softcard.tinygrad_child import die, use_the_app


def prepare() -> None:
    import os

    from tinygrad.runtime.support.nv import ip

    from exosuit.softcard.nvidia.firmware import SyntheticFirmware

    files = SyntheticFirmware()
    ip.fetch_fw = lambda folder, name, sha256: files.read(f"{folder}/{name}")
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
    prepare()
    works = {"boot": boot, "copies": copies, "die": die}
    for work in sys.argv[1].split(","):
        works[work]()
        print("done", work, flush=True)


if __name__ == "__main__":
    main()
