"""Write a model with random weights, for measuring speed where no model hub is reachable.

    python benchmarks/make_model.py --shape 1b --type Q4_0 --out 1b-Q4_0.gguf

Shapes are those of `tests/peers/random_models.py`: `1b` is TinyLlama's, `llama-3.2-1b` is Llama
3.2's, `0.35b` fits small machines, the rest are the tests' own. Needs the `test` extra.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # a script, so the tests' folder is not a package

from tests.peers.random_models import LARGE, SMALL, STORAGE_TYPES, write_model

from exosuit.units import human_bytes, human_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shapes = SMALL | LARGE
    parser.add_argument("--shape", default="1b", choices=shapes)
    parser.add_argument("--type", default="Q4_0", choices=[*STORAGE_TYPES, "Q4_K_M"])
    parser.add_argument("--drawn", action="store_true", help="random blocks: quick, without a peer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    wanted = parser.parse_args()
    started = time.perf_counter()
    write_model(wanted.out, shapes[wanted.shape], wanted.type, wanted.seed, drawn=wanted.drawn)
    took = human_seconds(time.perf_counter() - started)
    print(f"{wanted.out}: {human_bytes(wanted.out.stat().st_size)} in {took}")


if __name__ == "__main__":
    main()
