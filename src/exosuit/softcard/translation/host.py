"""Host machine code: made by LLVM from IR, kept on disk, loaded into this process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

LARGE = 600_000
"""Characters of IR. Beyond that LLVM's quick way of making code pays: four times as fast, for code
that takes a quarter longer."""
Ir = str | Callable[[], str]
"""A module's text, or what writes it: that takes longer than loading what was made of it before."""
_DIGEST = hashlib.sha256().digest_size


class HostCode:
    """Objects made for this host.

    folder  where they are kept between processes, or None; files appear by rename, and a damaged
            one is made anew
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._engines: list[Any] = []

    def functions(self, key: str, ir: Ir, *names: str) -> list[int]:
        """Addresses of functions of the module `ir`, which is made only where `key` is unknown."""
        return self.load(self.object(key, ir), *names)

    def object(self, key: str, ir: Ir) -> bytes:
        """The object of a module, from the folder if it is there."""
        name = hashlib.sha256(f"{key}\n{_machine_name()}".encode()).hexdigest()[:40]
        found = self._read(name)
        if found is None:
            found = compile_ir(ir if isinstance(ir, str) else ir())
            self._write(name, found)
        return found

    def load(self, code: bytes, *names: str) -> list[int]:
        """Put an object into executable memory, which lives as long as this does."""
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        self._engines.append(engine)
        return [engine.get_function_address(name) for name in names]

    def _read(self, name: str) -> bytes | None:
        if self._folder is None:
            return None
        try:
            content = (self._folder / name).read_bytes()
        except OSError:
            return None
        body = content[_DIGEST:]
        return body if hashlib.sha256(body).digest() == content[:_DIGEST] else None

    def _write(self, name: str, code: bytes) -> None:
        """Losing an entry costs a compilation, so a full disk is not an error here."""
        if self._folder is None:
            return
        temporary: Path | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                temporary = Path(file.name)
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(temporary, self._folder / name)
        except OSError:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def compile_ir(ir: str) -> bytes:
    """An object for this host. RuntimeError for IR that LLVM refuses: a mistake of ours."""
    machine = _target_machine(optimise=len(ir) < LARGE)
    module = llvm.parse_assembly(ir)
    module.data_layout = str(machine.target_data)
    module.verify()
    return machine.emit_object(module)


def _target_machine(optimise: bool = True) -> llvm.TargetMachine:
    """A new one, since an engine takes possession of its own."""
    _initialise()
    # Large: where much memory is mapped, MCJIT puts code and constants more than 2 GiB apart, and
    # LLVM aborts the process over a relocation of the small model.
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=1 if optimise else 0, reloc="pic",
        codemodel="large",
    )  # fmt: skip


@cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@cache
def _features() -> str:
    present = llvm.get_host_cpu_features()
    return ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(present.items()))


@cache
def _machine_name() -> str:
    return f"{llvm.get_default_triple()} {llvm.get_host_cpu_name()} {_features()} " + str(
        llvmlite.__version__
    )


def aligned(shape: tuple[int, ...], align: int = 4096) -> NDArray[np.uint8]:
    """Zeroed bytes whose address is a multiple of `align`."""
    size = int(np.prod(shape))
    whole = np.zeros(size + align, np.uint8)
    skip = -whole.ctypes.data % align
    return whole[skip : skip + size].reshape(shape)


def sources_hash(*folders: Path) -> str:
    """Hash of a translator itself: code that another version of it made is not this one's."""
    digest = hashlib.sha256()
    for folder in (*folders, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
