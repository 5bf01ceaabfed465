"""Other engines on the same card, as far as they are there; each says why it is left out.

llama.cpp is its own `llama-bench`, built with CUDA elsewhere and named by EXOSUIT_LLAMA_BENCH.
PyTorch and tinygrad are asked for the one thing that decides decoding: a matrix times a vector, as
large as a feed-forward block's, in f16, replayed over more weights than any cache holds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

ROWS, COLUMNS, MATRICES = 14336, 4096, 40
_BYTES = 2 * ROWS * COLUMNS
_TURNS = 10


def llamacpp(model: Path, prompt: int, filled: int, generate: int) -> dict[str, Any]:
    """Tokens per second as llama-bench has them: pp, and tg behind a filled context."""
    program = os.environ.get("EXOSUIT_LLAMA_BENCH", "")
    if not program or not Path(program).exists():
        return {"left_out": "EXOSUIT_LLAMA_BENCH names no llama-bench"}
    words = [
        program, "-m", str(model), "-p", str(prompt), "-n", str(generate), "-d", f"0,{filled}",
        "-ngl", "99", "-fa", "1", "-r", "5", "-o", "json",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        return {"failed": done.stderr[-500:]}
    return {
        "rows": [
            {key: row.get(key) for key in
             ("n_prompt", "n_gen", "n_depth", "avg_ts", "stddev_ts", "build_commit", "backends")}
            for row in json.loads(done.stdout)
        ]
    }  # fmt: skip


def pytorch() -> dict[str, Any]:
    """Its own f16 matrix times vector."""
    try:
        import torch
    except ImportError:
        return {"left_out": "there is no PyTorch"}
    if not torch.cuda.is_available():
        return {"left_out": "this PyTorch sees no card"}
    shape = (ROWS, COLUMNS)
    matrices = [torch.randn(shape, dtype=torch.float16, device="cuda") for _ in range(MATRICES)]
    vector = torch.randn(COLUMNS, dtype=torch.float16, device="cuda")
    for matrix in matrices:
        matrix @ vector
    times: list[float] = []
    for _ in range(_TURNS):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for matrix in matrices:
            matrix @ vector
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return {"version": torch.__version__} | _told(statistics.median(times))


def tinygrad() -> dict[str, Any]:
    """The same through its CUDA backend, compiled by its JIT."""
    try:
        from tinygrad import Device, Tensor, TinyJit, dtypes
    except ImportError:
        return {"left_out": "there is no tinygrad"}
    name = "CUDA"
    matrices = [
        Tensor.randn(ROWS, COLUMNS, dtype=dtypes.float16, device=name).realize()
        for _ in range(MATRICES)
    ]
    vector = Tensor.randn(COLUMNS, dtype=dtypes.float16, device=name).realize()

    @TinyJit
    def all_of_them() -> list[Any]:
        return [(matrix @ vector).realize() for matrix in matrices]

    times: list[float] = []
    for _ in range(_TURNS + 3):
        start = time.perf_counter()
        all_of_them()
        Device[name].synchronize()
        times.append(time.perf_counter() - start)
    return _told(statistics.median(times[3:]))


def _told(seconds: float) -> dict[str, Any]:
    return {
        "matrix": [ROWS, COLUMNS], "matrices": MATRICES, "us_each": 1e6 * seconds / MATRICES,
        "gb_s": round(MATRICES * _BYTES / seconds / 1e9, 1),
    }  # fmt: skip
