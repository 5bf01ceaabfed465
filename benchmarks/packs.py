"""Make the packs of cubins that a wheel carries: programs of models by their shapes alone.

    python benchmarks/packs.py                  # all six targets, into the source tree
    python benchmarks/packs.py --target sm_90 --out FOLDER

The models below are written as GGUF files whose tensors are holes, so nothing is downloaded and
little is stored; `exosuit kernels pack` does the rest. Needs ptxas and the `test` extra. Without
packs a wheel is complete all the same: cards then get PTX, which their driver compiles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script: the tests' folder is no package

import gguf
import numpy as np
from tests.peers import random_models
from tests.peers.random_models import Shape

from exosuit.cli.main import main as exosuit

_LLAMA = {"rope_base": 500000.0, "vocab": 128256, "context": 8192}
_QWEN = {"rope_base": 1e6, "eps": 1e-6, "vocab": 151936, "context": 8192, "head_dim": 128}
MODELS = [
    (Shape("llama", 16, 2048, 8192, 32, 8, 64, tied=True, **_LLAMA), ("Q4_K_M", "Q8_0")),
    (Shape("llama", 32, 4096, 14336, 32, 8, 128, **_LLAMA), ("Q4_K_M", "Q8_0", "F16")),
    (Shape("llama", 80, 8192, 28672, 64, 8, 128, **_LLAMA), ("Q4_K_M",)),
    (Shape("qwen3", 36, 4096, 12288, 32, 8, **_QWEN), ("Q4_K_M", "Q8_0")),
    (
        Shape("qwen3moe", 48, 2048, 768, 32, 4, n_experts=128, n_experts_used=8, **_QWEN),
        ("Q4_K_M",),
    ),
]
"""Llama 3.2 1B, 3.1 8B and 3.3 70B, Qwen3 8B and 30B-A3B, in the formats they are mostly had in."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host", help="one target instead of all six")
    parser.add_argument("--out", help="instead of the folder that wheels take them from")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [
            str(hollow(Path(folder) / f"{number}-{storage}.gguf", shape, storage))
            for number, (shape, storages) in enumerate(MODELS)
            for storage in storages
        ]
        out = ["--out", wanted.out] if wanted.out else []
        return exosuit(["kernels", "pack", *files, "--target", wanted.target, *out])


def hollow(path: Path, shape: Shape, storage: str) -> Path:
    """A GGUF file of this shape in which every tensor is one hole."""
    writer = gguf.GGUFWriter(path, shape.arch)
    random_models._add_hyperparameters(writer, shape)
    random_models._add_vocabulary(writer, shape.vocab)
    total = 0
    for tensor in random_models.tensors(shape):
        kind = random_models._storage(storage, tensor, shape)
        rows, columns = random_models._rows_columns(tensor)
        size = rows * random_models._row_size(columns, kind)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float16), size, kind)
        total += -(-size // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout or ()
    writer.write_padding(file, file.tell())
    file.truncate(file.tell() + total)
    writer.close()
    return path


if __name__ == "__main__":
    raise SystemExit(main())
