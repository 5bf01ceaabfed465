"""How much memory a model takes and how long it takes to load: a process of its own for each file.

    python benchmarks/memory.py /models/*.gguf

Each file is read once first, so that loading finds it in the page cache; then it is opened, a
prompt of 512 tokens and eight more are computed, and the kernel is asked for the peak of the
resident size. `over` is what remains of it after 1.15 times the file and the cache of keys and
values: the interpreter, NumPy, LLVM and the workspace. Kernels are compiled in an earlier process,
whose load time is not reported.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from exosuit.driver.cpu import CpuDevice
from exosuit.engine.batch import PAGE_TOKENS, Run, Sampling
from exosuit.engine.runner import open_runner
from exosuit.kernel import Target
from exosuit.settings import Settings
from exosuit.units import MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--here", action="store_true", help="measure in this process, print JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.models[0], arguments.threads, arguments.context)))
        return
    print("| model | file MiB | cache MiB | peak MiB | peak / file | over MiB | load s |")
    print("|---|---|---|---|---|---|---|")
    for path in arguments.models:
        command = [sys.executable, __file__, str(path), "--here", f"--threads={arguments.threads}"]
        command.append(f"--context={arguments.context}")
        runs = [json.loads(subprocess.check_output(command)) for _ in range(3)][1:]
        peak, file, cache = (max(r[k] for r in runs) / MiB for k in ("peak", "file", "cache"))
        over = peak - cache - 1.15 * file
        loads = " ".join(f"{r['load_s']:.2f}" for r in runs)
        print(f"| {path.name} | {file:.0f} | {cache:.0f} | {peak:.0f} | {peak / file:.2f} | "
              f"{over:.0f} | {loads} |", flush=True)  # fmt: skip


def measure(path: Path, threads: int, context: int) -> dict[str, Any]:
    with path.open("rb") as file:
        while file.read(1 << 16):  # little: what is read counts too
            pass
    device = CpuDevice(Target.host().name, threads)
    cache = Settings.from_environment().cache / "programs"
    opened, runner, timings = open_runner(path, device, cache, context=context)
    greedy = Sampling(temperature=0.0)
    pages = tuple(range(-(-520 // PAGE_TOKENS)))
    tokens = tuple(range(100, 612))
    (sampled,) = runner.run([Run(0, tokens, 0, pages, greedy)])
    for at in range(512, 520):
        assert sampled is not None
        (sampled,) = runner.run([Run(0, (sampled.token,), at, pages, greedy)])
    found = {
        "file": sum(part.stat().st_size for part in opened.paths),
        "cache": runner.model.report.cache_bytes,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "load_s": timings.load_s,
    }
    runner.close()
    opened.close()
    device.close()
    return found


if __name__ == "__main__":
    main()
