"""Runs in a process of its own: tinygrad as a driver of the card at $REMOTE.

Usage: tinygrad_child.py TARGET WORK[,WORK...]. Everything is tinygrad's own but the firmware files,
which it would fetch from the network and which have synthetic ones in their place.
"""

import os
import sys

import numpy as np


def prepare(target: str) -> None:
    from tests.softcard.synthetic_firmware import for_target
    from tinygrad.runtime.support.am import amdev

    files = for_target(target)
    amdev.fetch_fw = lambda folder, name, sha256: files[name]
    if "APL_REMOTE_SOCK" in os.environ:
        use_the_app()


def use_the_app() -> None:
    """Take the way that tinygrad takes on a Mac: the app's UNIX socket, with shared memory."""
    from tinygrad.runtime.support import system

    system.APLRemotePCIDevice.ensure_app = classmethod(lambda cls: None)
    kind = type(system.System)
    kind.list_devices = lambda *_, **__: [(system.APLRemotePCIDevice, "usb4")]


def boot() -> None:
    from tinygrad import Device

    device = Device["AMD"]
    device.synchronize()


def copies() -> None:
    from tinygrad import Tensor

    rng = np.random.default_rng(1)
    for size in (1, 17, 4096, 3_000_001):
        data = rng.integers(0, 255, size, dtype=np.uint8)
        back = Tensor(data, device="AMD").realize().numpy()
        assert (back == data).all(), size


def kernels() -> None:
    from tinygrad import Tensor

    rng = np.random.default_rng(2)
    a = rng.standard_normal((64, 96)).astype(np.float32)
    b = rng.standard_normal((96, 32)).astype(np.float32)
    left, right = Tensor(a, device="AMD"), Tensor(b, device="AMD")
    assert np.allclose((left + 1.5).numpy(), a + 1.5)
    assert np.allclose((left @ right).numpy(), a @ b, atol=1e-4)
    assert np.allclose(left.sum(axis=1).numpy(), a.sum(axis=1), atol=1e-4)
    soft = np.exp(a) / np.exp(a).sum(axis=1, keepdims=True)
    assert np.allclose(left.softmax(axis=1).numpy(), soft, atol=1e-5)
    assert np.allclose(left.max(axis=0).numpy(), a.max(axis=0))


def graphs() -> None:
    """Recorded once, replayed: indirect buffers, and a wait that the host ends."""
    from tinygrad import Tensor, TinyJit

    rng = np.random.default_rng(3)
    weights = rng.standard_normal((48, 48)).astype(np.float32)
    held = Tensor(weights, device="AMD").realize()

    @TinyJit
    def step(x: Tensor) -> Tensor:
        return ((x @ held).relu() + x).sum(axis=1).realize()

    for _ in range(6):
        x = rng.standard_normal((8, 48)).astype(np.float32)
        found = step(Tensor(x, device="AMD").realize()).numpy()
        wanted = (np.maximum(x @ weights, 0) + x).sum(axis=1)
        assert np.allclose(found, wanted, atol=1e-3)


def die() -> None:
    """Leave as a killed process does: nothing is put away."""
    os._exit(7)


def main() -> None:
    prepare(sys.argv[1])
    for work in sys.argv[2].split(","):
        globals()[work]()
        print("done", work, flush=True)


if __name__ == "__main__":
    main()
