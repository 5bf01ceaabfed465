"""AArch64 processors under user-mode emulation, on which compiled kernels are really run.

Each level runs on a processor that has no more than the level asks for, so an instruction from
beyond it is an illegal instruction here too. The kernel's object is linked into a shared library
and called by `runner.c`. Needs Debian's qemu-user-static and gcc-aarch64-linux-gnu.
"""

from __future__ import annotations

import shutil
import subprocess
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exosuit.kernel import Kernel, Target, compile_kernel
from exosuit.program import Access, Program

EMULATOR, COMPILER, LINKER = (
    "qemu-aarch64-static",
    "aarch64-linux-gnu-gcc",
    "aarch64-linux-gnu-ld",
)
# Armv8.0; Armv8.2 with FEAT_DotProd; everything the emulator has, FEAT_I8MM and FEAT_BF16 too.
PROCESSORS = {
    "aarch64-neon": "cortex-a72",
    "aarch64-dotprod": "cortex-a76",
    "aarch64-i8mm": "max",
}
# A test takes a second at most; what takes this long hangs.
_LIMIT_SECONDS = 60
_SYSTEM = Path("/usr/aarch64-linux-gnu")


def require_tools() -> None:
    """Skip the test, saying why, where there is no emulator."""
    for tool in (EMULATOR, COMPILER, LINKER):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: qemu-user-static, gcc-aarch64-linux-gnu)")


def build(source: Path, out: Path, *options: str) -> Path:
    """Compile a C file for the emulated Linux."""
    command = [COMPILER, "-O1", "-Wall", "-Werror", str(source), *options, "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def emulate(target: str, *words: str | Path) -> None:
    """Run a program on the processor that `target` is for; its failure is the test's."""
    command = [EMULATOR, "-cpu", PROCESSORS[target], "-L", str(_SYSTEM), *map(str, words)]
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=_LIMIT_SECONDS
    )
    assert result.returncode == 0, f"{words} on {target}: {result.returncode} {result.stderr}"


class EmulatedRunner:
    """Compiles kernels for one level and runs them: the twin of `tests.unit.ops`' `Runner`."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self._folder = folder
        self._runner = build(Path(__file__).parent / "runner.c", folder / "runner", "-ldl")
        # Keyed by the kernel itself: tests define many of one name.
        self._libraries: dict[tuple[Kernel, str], tuple[Program, Path]] = {}

    def __call__(self, kernel: Kernel, groups: int, *arguments: Any, **static: Any) -> None:
        """Run once. Arrays that the kernel writes are changed in place; numbers are scalars."""
        key = (kernel, repr(static))
        if key not in self._libraries:
            program = compile_kernel(kernel, self.target, **static)
            self._libraries[key] = program, self._link(program)
        program, library = self._libraries[key]

        regions: dict[int, np.ndarray[Any, Any]] = {}
        slots = np.zeros((len(arguments), 2), np.int64)
        for slot, argument, parameter in zip(slots, arguments, program.parameters, strict=True):
            if parameter.access is not Access.VALUE:
                regions.setdefault(id(argument), argument)
                slot[0] = list(regions).index(id(argument))
            else:
                slot[0] = -1
                slot[1:].view(np.float32 if parameter.dtype == "f32" else np.int64)[0] = argument
        sizes = [region.nbytes for region in regions.values()]
        header = np.array([groups, len(regions), len(arguments), *sizes], np.int64)
        contents = [np.ascontiguousarray(region).tobytes() for region in regions.values()]

        file = self._folder / "arguments"
        file.write_bytes(b"".join([header.tobytes(), slots.tobytes(), *contents]))
        emulate(self.target.name, self._runner, library, program.entry, file)
        result, offset = file.read_bytes(), header.nbytes + slots.nbytes
        written = {
            id(argument)
            for argument, parameter in zip(arguments, program.parameters, strict=True)
            if parameter.access.writes
        }
        for name, region in regions.items():
            found = np.frombuffer(result, region.dtype, region.size, offset)
            offset += region.nbytes
            if name in written:
                region[...] = found.reshape(region.shape)
            else:
                np.testing.assert_array_equal(
                    found.view(np.uint8), region.reshape(-1).view(np.uint8), "an input was changed"
                )

    def _link(self, program: Program) -> Path:
        """A library of the object alone: a kernel that calls for anything else fails here."""
        name = self._folder / f"{program.name}-{len(self._libraries)}"
        name.with_suffix(".o").write_bytes(program.code)
        command = [LINKER, "-shared", "-z", "defs", name.with_suffix(".o")]
        subprocess.run([*command, "-o", name.with_suffix(".so")], check=True)
        return name.with_suffix(".so")


def running_tests(module: ModuleType) -> dict[str, Any]:
    """The tests of a module that take a fixture that runs kernels, by name."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_") and {"run", "run_host"} & set(signature(test).parameters)
    }
