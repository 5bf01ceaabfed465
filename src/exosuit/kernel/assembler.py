"""PTX text to cubins by ptxas where it is installed: the CUDA toolkit's, or nvidia-cuda-nvcc's.

Only packs of programs are made with it. Cards take PTX as well, and their driver compiles it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from exosuit.errors import CompileFailed, UsageError
from exosuit.program import Program


class Assembler:
    """One ptxas. UsageError where there is none."""

    def __init__(self, path: Path | None = None) -> None:
        found = path or find_ptxas()
        if found is None:
            raise UsageError(
                "there is no ptxas",
                cause="cubins are made by NVIDIA's assembler, which is not on PATH",
                next="pip install nvidia-cuda-nvcc",
            )
        self.path = found

    @property
    def version(self) -> str:
        """As in 13.0.88."""
        text = subprocess.run(
            [self.path, "--version"], capture_output=True, text=True, check=True
        ).stdout
        match = re.search(r"V(\d+(?:\.\d+)*)", text)
        return match[1] if match else "unknown"

    def cubin(self, program: Program) -> bytes:
        """Machine code of a program in PTX. CompileFailed with what ptxas says."""
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder) / "program.ptx", Path(folder) / "program.cubin"
            source.write_bytes(program.code)
            told = subprocess.run(
                [self.path, f"-arch={program.target}", "-O3", source, "-o", made],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if told.returncode:
                raise CompileFailed(
                    f"ptxas refuses {program.name} for {program.target}",
                    cause=(told.stderr.strip().splitlines() or ["it says nothing"])[0],
                    next="report it: this is a mistake in exosuit.kernel",
                )
            return made.read_bytes()


def find_ptxas() -> Path | None:
    """On PATH, or in the wheels that PyPI has of it."""
    on_path = shutil.which("ptxas")
    if on_path is not None:
        return Path(on_path)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(Path(folder).glob("*/bin/ptxas"), reverse=True):
            return file
    return None
