"""Programs on the card: machine code from a pack, or PTX that the driver compiles.

What its compiler says about PTX that it refuses goes into the error.
"""

from __future__ import annotations

import ctypes

from exosuit.driver.cuda import failures
from exosuit.driver.cuda.context import Context
from exosuit.errors import CompileFailed, ExosuitError, KernelError, NotOnTarget
from exosuit.program import Program

_ELF = b"\x7fELF"
_ERROR_LOG, _ERROR_LOG_BYTES = 5, 6
"""CUjit_option."""
_LOG_BYTES = 4096


class Programs:
    """The modules of one card, each loaded when its program is first launched."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._functions: dict[tuple[bytes, str], int] = {}
        self._modules: list[int] = []

    def function(self, program: Program) -> int:
        """Its CUfunction. KernelError for programs of other targets or that the driver refuses."""
        if program.target != self._context.target:
            raise KernelError(
                f"program {program.name!r} is for {program.target},"
                f" this device is {self._context.target}",
                cause="it was compiled for another machine",
                next="compile it for this device's target",
            )
        key = program.code, program.entry
        function = self._functions.get(key)
        if function is None:
            module = self._load(program)
            self._modules.append(module)
            function = self._context.handle("cuModuleGetFunction", module, program.entry.encode())
            self._functions[key] = function
        return function

    def _load(self, program: Program) -> int:
        module = ctypes.c_void_p()
        log = ctypes.create_string_buffer(_LOG_BYTES)
        options = (ctypes.c_int * 2)(_ERROR_LOG, _ERROR_LOG_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), _LOG_BYTES)
        status = self._context.library.status(
            "cuModuleLoadDataEx", ctypes.byref(module), program.code + b"\0", 2, options, values
        )
        if status:
            error = self._context.failed(status, "cuModuleLoadDataEx")
            raise _of_program(error, status, program, log.value.decode("utf-8", "replace"))
        assert module.value is not None
        return module.value

    def close(self) -> None:
        for module in self._modules:
            self._context.call("cuModuleUnload", module)
        self._modules.clear()
        self._functions.clear()


def _of_program(error: ExosuitError, status: int, program: Program, log: str) -> ExosuitError:
    """The error with the program's name and the first line that the compiler wrote."""
    lines = [line for line in log.splitlines() if line.strip()]
    if status == failures.NO_BINARY:
        return NotOnTarget(
            f"the machine code of {program.name} is not for this card ({program.target})",
            cause=error.cause,
            next=error.next,
            **error.fields,
        )
    if status in (failures.INVALID_PTX, failures.INVALID_IMAGE):
        what = "a cubin" if program.code.startswith(_ELF) else "PTX"
        return CompileFailed(
            f"the driver refuses {program.name} ({what} for {program.target})",
            cause=lines[0] if lines else error.cause,
            next=error.next,
            log=log,
            **error.fields,
        )
    return error
