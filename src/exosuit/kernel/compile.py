"""From a kernel to a `Program`: trace it, have it made into code, keep the result on disk."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite

from exosuit.errors import CompileFailed
from exosuit.kernel.codegen import generate
from exosuit.kernel.decorator import Kernel
from exosuit.kernel.target import Target
from exosuit.kernel.worker import Worker
from exosuit.program import Program


def compile_kernel(
    kernel: Kernel, target: Target, store: ProgramCache | None = None, **static: Any
) -> Program:
    """The program of `kernel` for `target` with its static parameters fixed.

    Raises NotOnTarget for what the target cannot do, CompileFailed for wrong use of the language;
    both name the kernel's file and line.
    """
    if store is not None and (packed := store.packed(kernel, static)) is not None:
        return packed
    key = "" if store is None else _key(kernel, target, static)
    if store is not None and (found := store.load(key)) is not None:
        return found
    trace = kernel.trace(target, **static)
    program = Program(
        name=kernel.name,
        target=target.name,
        entry=trace.name,
        code=emit(trace.ir, target, name=kernel.name),
        parameters=kernel.parameters,
        group_size=kernel.group_size if target.is_gpu else 1,
        shared_bytes=trace.shared_bytes,
    )
    if store is not None:
        store.save(key, program)
    return program


def emit(ir: str, target: Target, assembly: bool = False, name: str = "kernel") -> bytes:
    """Object code for a CPU or an AMD chip, PTX text for NVIDIA; or assembly for people.

    CPU code is made in this process, GPU code in a child; `name` is the kernel's, for errors.
    """
    if target.is_gpu:
        return _worker().generate(name, ir, target, assembly)
    return generate(ir, target, assembly)


@cache
def _worker() -> Worker:
    return Worker()


# The cache ------------------------------------------------------------------------------------


_DIGEST = hashlib.sha256().digest_size


class ProgramCache:
    """Compiled programs in a folder, one file each, named by what they were made from.

    Files appear by rename, so processes may share the folder. A file is the SHA-256 of a pickle,
    then the pickle: what is damaged is a miss, and no damaged machine code is ever run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def packed(self, kernel: Kernel, static: dict[str, Any]) -> Program | None:
        """A program that was compiled elsewhere; see `packs`."""
        del kernel, static
        return None

    def load(self, key: str) -> Program | None:
        try:
            content = (self._folder / key).read_bytes()
        except OSError:
            return None
        digest, body = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            return None
        program = pickle.loads(body)
        return program if isinstance(program, Program) else None

    def save(self, key: str, program: Program) -> None:
        """Losing a cache entry costs a compilation, so a full disk is not an error here."""
        temporary: Path | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                temporary = Path(file.name)
                body = pickle.dumps(program)
                file.write(hashlib.sha256(body).digest() + body)
            os.replace(temporary, self._folder / key)
        except OSError:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _key(kernel: Kernel, target: Target, static: dict[str, Any]) -> str:
    """Hash of everything the code depends on: sources, static values, target, LLVM."""
    statics = ", ".join(f"{name}={value!r}" for name, value in sorted(static.items()))
    if " at 0x" in statics:
        raise CompileFailed(
            f"kernel {kernel.name!r}: a static value has no telling repr",
            cause=statics,
            next="make it a frozen dataclass",
        )
    parts = (
        sources_hash(), _module_hash(kernel.__module__), kernel.name, statics, target.name,
        target.features, llvmlite.__version__, str(sys.version_info[:2]),
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


@cache
def sources_hash() -> str:
    """Hash of the kernel language and of all ops: the version of every compiled kernel."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256((root / "program.py").read_bytes())
    for folder in ("kernel", "ops"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _module_hash(name: str) -> str:
    """Hash of the file a kernel is written in, for kernels outside of this package."""
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else name
