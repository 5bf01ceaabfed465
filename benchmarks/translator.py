"""How fast the software card executes machine code: lane instructions per second of one core.

    python -m benchmarks.translator [--out benchmarks/results/translator-HOST.json]

Products of one vector with a matrix of 4,096 by 4,096, in the kernels that models run on gfx1100,
and an RMS norm of 512 rows. Each is translated once, which is timed by itself, then run several
times on one thread. Times are of the process, so that a busy machine tells nearly the same; the
rate is the best run's. A lane instruction is one instruction of a wave times its active lanes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.softcard.shader_device import ShaderDevice
from tests.unit.ops.weights import block_of, random_rows

from exosuit.driver.amd.loader import load
from exosuit.graph import Arena, Graph
from exosuit.kernel import Target, compile_kernel
from exosuit.ops.activations import quantise_reference, tile_order
from exosuit.ops.blocks import LANE_ROWS, Field
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.formats import FORMATS
from exosuit.ops.gpu.pack import pack_gpu_reference
from exosuit.ops.matmul import Tile, matmul
from exosuit.ops.matmul_float import FLOAT_FORMATS, FloatFormat, matmul_float
from exosuit.ops.norm import rms_norm
from exosuit.ops.variants import variant
from exosuit.program import Program

TARGET = Target.named("gfx1100")
SIDE = 4096
RUNS = 5
FORMAT_NAMES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16")


def product(name: str) -> tuple[Program, int, list[Any], int]:
    """Program, workgroups, arguments and weights of a product of one vector."""
    format = {**FORMATS, **FLOAT_FORMATS}[name]
    raw = random_rows(format, SIDE, SIDE)
    x = np.random.default_rng(0).normal(size=(1, SIDE)).astype(np.float32)
    if isinstance(format, FloatFormat):
        inputs: tuple[Any, ...] = (tile_order(x, 1, 1),)
        fields, block_bytes, kernel = (Field(0, 16, format.bytes),), 16, matmul_float
    else:
        quants, scales = quantise_reference(x, format.block)
        sums = quants.reshape(1, -1, format.sub).sum(-1)
        sums = sums.astype(np.float32 if format.has_minimum else np.int32).view(np.uint32)
        inputs = (tile_order(quants, 1, 4), tile_order(scales, 1, 1), tile_order(sums, 1, 1))
        fields, block_bytes, kernel = format.fields, format.block_bytes, matmul
    weights = pack_gpu_reference(raw, fields, block_bytes).reshape(-1)
    out = np.zeros((1, SIDE), np.float32)
    program = compile_kernel(
        variant(kernel, TARGET), TARGET, rows=SIDE, columns=SIDE, stride=SIDE, format=format,
        tile=Tile(1, 1), epilogue=Epilogue(),
    )  # fmt: skip
    assert block_of(format)
    nothing = np.zeros(16, np.float32)
    return program, SIDE // LANE_ROWS, [weights, *inputs, nothing, out, 1], SIDE * SIDE


def norm() -> tuple[Program, int, list[Any], int]:
    x = np.random.default_rng(0).normal(size=(512, SIDE)).astype(np.float32)
    program = compile_kernel(rms_norm, TARGET, width=SIDE, eps=1e-5)
    return program, 512, [x, x[0], np.zeros_like(x)], x.size


def measure(program: Program, groups: int, arguments: list[Any], elements: int) -> dict[str, Any]:
    device = ShaderDevice(TARGET.name, None, threads=1)
    arena = Arena(device, sum(a.nbytes + 256 for a in arguments if not isinstance(a, int)), "all")
    values: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            region = arena.take(argument.nbytes)
            device.copy_in(region, argument)
            values.append(region)
        else:
            values.append(argument)
    device.shaders.warm_up()
    graph = Graph()
    graph.launch(program, groups, *values)
    replay = graph.prepare(device)
    began = time.process_time()
    replay.run()
    first = time.process_time() - began
    done = device.lane_instructions
    best = min(_timed(replay.run) for _ in range(RUNS))
    return {
        "kernel": program.name,
        "code_bytes": len(load(program.code, program.entry).bytes),
        "translate_s": round(first - best, 3),
        "run_ms": round(best * 1e3, 2),
        "lane_instructions": done,
        "lane_instructions_per_s": round(done / best),
        "elements_per_s": round(elements / best),
    }


def _timed(run: Any) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {f"product {name}": measure(*product(name)) for name in FORMAT_NAMES}
    results["rms_norm"] = measure(*norm())
    for name, result in results.items():
        rate = result["lane_instructions_per_s"] / 1e9
        print(f"{name:14} {rate:6.2f} G/s {result['run_ms']:8.2f} ms "
              f"translated in {result['translate_s']:.2f} s")  # fmt: skip
    if arguments.out:
        text = {"machine": platform.processor() or platform.machine(), "results": results}
        arguments.out.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
