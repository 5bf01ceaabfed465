"""Write docs/gpu-kernels-nvidia.md: what ptxas makes of every typical launch, for all six targets.

    python benchmarks/cubins.py

Needs ptxas, and cuobjdump with nvdisasm (the `test` extra). Takes a few minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from exosuit.kernel import Target, compile_kernel
from exosuit.kernel.assembler import Assembler
from exosuit.kernel.packs import TARGETS
from exosuit.ops.gpu.typical import typical_launches
from exosuit.silicon.nvidia.cubin import CubinKernel, read_cubin

SHOWN = "sm_90"
"""The target whose instructions are counted."""


@dataclass(frozen=True)
class Made:
    label: str
    kernel: str
    cubins: dict[str, CubinKernel]
    sizes: dict[str, int]
    instructions: Counter[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/gpu-kernels-nvidia.md"))
    wanted = parser.parse_args()
    assembler, tool = Assembler(), _cuobjdump()
    with ThreadPoolExecutor(2) as pool:
        count = len(typical_launches(Target.named(SHOWN)))
        rows = list(pool.map(lambda k: _made(k, assembler, tool), range(count)))
    wanted.out.write_text(page(rows, assembler.version))
    print(f"{wanted.out}: {len(rows)} launches, {len(TARGETS)} targets")


def _made(number: int, assembler: Assembler, tool: str) -> Made:
    """One typical launch for every target; their lists are the same for all NVIDIA targets."""
    cubins: dict[str, CubinKernel] = {}
    sizes: dict[str, int] = {}
    instructions: Counter[str] = Counter()
    for name in TARGETS:
        target = Target.named(name)
        launch = typical_launches(target)[number]
        program = compile_kernel(launch.kernel, target, **launch.static)
        content = assembler.cubin(program)
        cubins[name] = read_cubin(content).kernels[program.entry]
        sizes[name] = len(content)
        if name == SHOWN:
            instructions = _instructions(content, tool)
    return Made(launch.label, launch.kernel.name, cubins, sizes, instructions)


def _instructions(content: bytes, tool: str) -> Counter[str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(content)
        file.flush()
        text = subprocess.run(
            [tool, "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    return Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", text))


def _cuobjdump() -> str:
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("nvidia")
    places = (spec.submodule_search_locations or ()) if spec else ()
    found = found or next((str(f) for p in places for f in Path(p).glob("*/bin/cuobjdump")), None)
    if found is None:
        raise SystemExit("there is no cuobjdump: pip install nvidia-cuda-cuobjdump")
    return found


def widths(found: Counter[str]) -> str:
    """Loads from global memory by width in bits: `12x128 2x32`."""
    loads: Counter[int] = Counter()
    for name, count in found.items():
        if name.startswith("LDG"):
            parts = name.split(".")
            width = next((int(p) for p in parts if p in ("64", "128", "256")), 32)
            width = next((int(p[1:]) for p in parts if p in ("U8", "S8", "U16", "S16")), width)
            loads[width] += count
    return " ".join(f"{n}x{width}" for width, n in sorted(loads.items(), reverse=True)) or "0"


def _count(found: Counter[str], *prefixes: str) -> int:
    return sum(count for name, count in found.items() if name.startswith(prefixes))


def page(rows: list[Made], version: str) -> str:
    lines = [
        "# GPU kernels: what ptxas makes of them for NVIDIA's chips",
        "",
        "Made by `python benchmarks/cubins.py`; do not edit.",
        "",
        f"Launches of real models (see `ops.gpu.typical`), assembled by ptxas {version} for "
        f"{len(TARGETS)} targets.",
        "Registers are those of a lane, read from the cubin; bytes of local memory (spills) are",
        f"in parentheses where there are any. Shared memory, loads and instructions are {SHOWN}'s:",
        "`loads` are those from global memory by width in bits, `dots` IDP, `matrix` IMMA, HMMA.",
        "Nothing here has been timed.",
        "",
    ]
    headings = ["launch", *TARGETS, "shared", "instructions", "loads", "dots", "matrix"]
    lines += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in rows:
        found = row.instructions
        cells = [row.label]
        for kernel in row.cubins.values():
            spilled = f" ({kernel.stack_bytes})" if kernel.stack_bytes else ""
            cells.append(f"{kernel.registers}{spilled}")
        cells += [
            str(row.cubins[SHOWN].shared_bytes),
            str(sum(found.values()) - found["NOP"]),
            widths(found),
            str(_count(found, "IDP")),
            str(_count(found, "IMMA", "HMMA")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    total = sum(size for row in rows for size in row.sizes.values())
    spilling = sum(bool(k.stack_bytes) for row in rows for k in row.cubins.values())
    lines += [
        "",
        f"{len(rows) * len(TARGETS)} cubins, {total / 1e6:.1f} MB before compression; "
        f"{spilling} of them use local memory.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
