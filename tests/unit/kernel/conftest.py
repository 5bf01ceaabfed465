"""Kernels on the host without a device: the object is loaded and called as the CPU driver would.

`run` compiles for each level that this machine can execute, so one test covers every lowering of
its words; `assembly` shows what a target's code looks like.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from exosuit.errors import UsageError
from exosuit.kernel import Kernel, Target, compile_kernel, emit
from exosuit.program import Access, Program

GPU = [name for name in Target.names() if Target.named(name).is_gpu]
AMD = [name for name in GPU if name.startswith("gfx")]
NVIDIA = [name for name in GPU if name.startswith("sm_")]
CPU = [name for name in Target.names() if name not in GPU]


def _host_levels() -> list[Target]:
    found: list[Target] = []
    for name in Target.names():
        level = name.rpartition("-")[2]
        try:
            host = Target.host(level)
        except UsageError:
            continue
        if host.name == name:
            found.append(host)
    return found


class Host:
    """Runs kernels of one level: arrays in place, numbers as scalars."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._engines: list[Any] = []

    def __call__(self, kernel: Kernel, *arguments: Any, groups: int = 1, **static: Any) -> None:
        program = compile_kernel(kernel, self.target, **static)
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
            self._load(program)
        )
        slots = np.zeros(max(len(arguments), 1), np.int64)
        for slot, (parameter, argument) in enumerate(
            zip(program.parameters, arguments, strict=True)
        ):
            if parameter.access is not Access.VALUE:
                assert argument.flags.c_contiguous
                slots[slot] = argument.ctypes.data
            elif parameter.dtype == "f32":
                slots[slot : slot + 1].view(np.float32)[0] = argument
            else:
                slots[slot] = argument
        entry(slots.ctypes.data, 0, groups)

    def _load(self, program: Program) -> int:
        machine = llvm.Target.from_triple(self.target.triple).create_target_machine()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(program.code))
        engine.finalize_object()
        self._engines.append(engine)
        return engine.get_function_address(program.entry)


@cache
def _host(target: Target) -> Host:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return Host(target)


@pytest.fixture(params=_host_levels(), ids=lambda target: target.name)
def run(request: pytest.FixtureRequest) -> Host:
    """`run(kernel, *arguments, groups=1, **static)` on one level of the host."""
    return _host(request.param)


@pytest.fixture
def run_host() -> Host:
    """The same on the host's best level only, for what no level lowers in its own way."""
    return _host(Target.host())


@pytest.fixture(scope="session")
def assembly() -> Callable[..., str]:
    """`assembly(kernel, target_name, **static)`: the code as text."""

    def show(kernel: Kernel, name: str, **static: Any) -> str:
        target = Target.named(name)
        ir = kernel.trace(target, **static).ir
        return emit(ir, target, assembly=True, name=kernel.name).decode()

    return show


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parameters named after a family of targets go through all of it."""
    families = {"gpu": GPU, "amd": AMD, "nvidia": NVIDIA, "cpu": CPU, "any_target": Target.names()}
    for name, targets in families.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, targets)
