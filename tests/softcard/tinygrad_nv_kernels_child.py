"""Runs in a process of its own: tinygrad computes on the software NVIDIA card at $REMOTE.

Its kernels are its own PTX. In place of the vendor's assembler, which would make machine code of
it, stands `softcard.nvidia.image`; everything after that is tinygrad's own driver: how it loads an
ELF file, what it writes into QMDs and constant banks, how it launches, chains and waits.
"""

from __future__ import annotations

import sys

import numpy as np
from tests.softcard.tinygrad_nv_child import prepare

from exosuit.softcard.nvidia.image import stand_in
from exosuit.softcard.nvidia.ptx.parse import parse


def use_stand_ins() -> None:
    from tinygrad.runtime.support import compiler_cuda

    class StandIns(compiler_cuda.PTXCompiler):
        def __init__(self, arch: str) -> None:
            super().__init__(arch, cache_key="stand_in")

        def compile(self, src: str) -> bytes:
            text = super().compile(src)
            (name,) = parse(text.decode())
            return stand_in(text, name, self.arch)

    compiler_cuda.NVPTXCompiler = StandIns


def main() -> None:
    prepare("")
    use_stand_ins()
    from tinygrad import Tensor, TinyJit

    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((48, 64)).astype(np.float32) for _ in range(2))
    w = rng.standard_normal((64, 32)).astype(np.float32)
    x, y, z = (Tensor(data, device="NV") for data in (a, b, w))
    wide = np.float64

    @TinyJit
    def step(value: Tensor) -> Tensor:
        first = (value @ z).relu().realize()
        second = (first @ z.T).realize()
        return (second + value).realize()

    def replayed() -> Tensor:
        """Captured at the second call; from the third on one graph, whose QMDs chain."""
        for _ in range(4):
            found = step(Tensor(a, device="NV").realize())
        return found

    works = {
        "add": (lambda: x + y, a + b),
        "where": (lambda: (x > 0).where(y, 2.0), np.where(a > 0, b, 2.0)),
        "sum": (lambda: x.sum(1), a.astype(wide).sum(1)),
        "matmul": (lambda: x @ z, a.astype(wide) @ w),
        "two in a row": (
            lambda: (x @ z).relu().realize() @ z.T,
            np.maximum(a.astype(wide) @ w, 0) @ w.T.astype(wide),
        ),
        "a graph": (replayed, np.maximum(a.astype(wide) @ w, 0) @ w.T.astype(wide) + a),
    }
    for name in sys.argv[1:] or works:
        compute, expected = works[name]
        found = compute().realize().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)
        print("done", name, flush=True)


if __name__ == "__main__":
    main()
