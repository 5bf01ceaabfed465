"""Runs in a process of its own: tinygrad as a driver over the software model of NVIDIA's driver.

Usage: tinygrad_nodes_child.py CARD VERSION WORK[,WORK...]. Everything is tinygrad's own: its ioctls
and object tree, pushbuffers, QMDs, constant banks. Given to it are files that open the model's
nodes, and a compiler that wraps its PTX in a stand-in for a cubin, since nobody can run SASS here.
Prints what the model refused.
"""

import ctypes
import os
import re
import sys

import numpy as np

from exosuit.softcard.nvidia.image import stand_in
from exosuit.softcard.nvidia.kernel_driver.driver import ModelOptions, SoftKernelDriver

MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
PAGES: dict[int, object] = {}
"""Usermode pages by the address that tinygrad was told."""


def prepare(model: SoftKernelDriver) -> None:
    from tinygrad.runtime import ops_nv
    from tinygrad.runtime.support import compiler_cuda

    class ModelFile(ops_nv.FileIOInterface):
        """A node of the model; memory is mapped by the real mmap, of the file behind it."""

        def __init__(self, path="", flags=os.O_RDONLY, fd=None):
            self.path, self.fd = path, model.open(path)

        def __del__(self):
            model.close(self.fd)

        def ioctl(self, request, arg):
            record = bytearray(memoryview(arg).cast("B"))
            model.ioctl(self.fd, request, record)
            ctypes.memmove(ctypes.addressof(arg), bytes(record), len(record))
            return 0

        def mmap(self, start, sz, prot, flags, offset):
            shows = model.shown_by(self.fd)
            if shows.page is not None:
                address = self.anon_mmap(0, sz, prot, MAP_SHARED | MAP_ANONYMOUS, 0)
                PAGES[address] = model.map(self.fd, sz)
                return address
            backing = shows.backing
            at = backing.start + shows.offset
            return self._mmap(start, sz, prot, flags, backing.pool.fd, at)

    class Page(ops_nv.MMIOInterface):
        """Registers that act when they are written."""

        def __setitem__(self, index, value):
            PAGES[self.addr].write32(4 * index, value)

    plain = ops_nv.MMIOInterface

    def registers(address, size, fmt="B"):
        return (Page if address in PAGES else plain)(address, size, fmt=fmt)

    ops_nv.FileIOInterface, ops_nv.MMIOInterface = ModelFile, registers

    class StandIns(compiler_cuda.PTXCompiler):
        def compile(self, src):
            text = plain_names(super().compile(src).decode())
            name = text.partition(".visible .entry")[2].split("(")[0].strip()
            return stand_in(text.encode(), name, self.arch)

    compiler_cuda.NVPTXCompiler = StandIns


def plain_names(text: str) -> str:
    """The same PTX with registers named and typed as LLVM does, which the model reads."""
    letters = str.maketrans("0123456789", "abcdefghij", "_")
    text = re.sub(
        r"%([a-z]+_[a-z]*\d*_)(?=\d|<)", lambda name: f"%{name[1].translate(letters)}", text
    )
    text = re.sub(r"(\.reg\s+)\.[sufb](8|16|32|64)\b", r"\1.b\2", text)
    text = re.sub(r"(, local\d+)\[0\];", r"\1;", text)
    return re.sub(r"(\.reg\s+\.b32\s+%[lg]idx)(\d);", r"\1<\2>;", text)


def boot() -> None:
    from tinygrad import Device

    Device["NV"].synchronize()


def copies() -> None:
    from tinygrad import Tensor

    rng = np.random.default_rng(1)
    for size in (1, 17, 4096, 3_000_001, 10 << 20):
        data = rng.integers(0, 255, size, dtype=np.uint8)
        back = Tensor(data, device="NV").realize().numpy()
        assert (back == data).all(), size


def kernels() -> None:
    from tinygrad import Tensor

    rng = np.random.default_rng(2)
    a = rng.standard_normal((64, 96)).astype(np.float32)
    b = rng.standard_normal((96, 32)).astype(np.float32)
    left, right = Tensor(a, device="NV"), Tensor(b, device="NV")
    assert np.allclose((left + 1.5).numpy(), a + 1.5)
    assert np.allclose((left @ right).numpy(), a @ b, atol=1e-4)
    assert np.allclose(left.sum(axis=1).numpy(), a.sum(axis=1), atol=1e-4)
    soft = np.exp(a) / np.exp(a).sum(axis=1, keepdims=True)
    assert np.allclose(left.softmax(axis=1).numpy(), soft, atol=1e-5)


def graphs() -> None:
    """Recorded once, replayed: QMDs that are chained, and a pushbuffer that is kept."""
    from tinygrad import Tensor, TinyJit

    rng = np.random.default_rng(3)
    weights = rng.standard_normal((48, 48)).astype(np.float32)
    held = Tensor(weights, device="NV").realize()

    @TinyJit
    def step(x: Tensor) -> Tensor:
        return ((x @ held).relu() + x).sum(axis=1).realize()

    for _ in range(6):
        x = rng.standard_normal((8, 48)).astype(np.float32)
        found = step(Tensor(x, device="NV").realize()).numpy()
        wanted = (np.maximum(x @ weights, 0) + x).sum(axis=1)
        assert np.allclose(found, wanted, atol=1e-3)


def main() -> None:
    card, version, works = sys.argv[1:]
    model = SoftKernelDriver(ModelOptions(version=version, cards=(card,), strict=False))
    prepare(model)
    for work in works.split(","):
        try:
            globals()[work]()
        except RuntimeError as error:
            faults = [fault.detail for card in model.cards for fault in card.faults]
            os.write(2, f"{error}\n{faults}\n{model.notes}\n".encode())
            os._exit(1)
        print("done", work, flush=True)
    for note in dict.fromkeys(model.notes):
        print("note", note, flush=True)


if __name__ == "__main__":
    main()
