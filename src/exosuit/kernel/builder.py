"""The builder: while a kernel's Python function runs, this collects LLVM IR text.

We write the text ourselves because llvmlite's own IR layer has no bfloat, no address-space
allocas, no fence metadata and no splat constants; and the text is short. The builder knows blocks,
names, declarations and the mask of the lanes that are on; values and the language sit above it.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from exosuit.errors import CompileFailed, NotOnTarget
from exosuit.kernel.target import Target

if TYPE_CHECKING:
    from exosuit.kernel.value import Value

_current: ContextVar[Builder] = ContextVar("kernel builder")


def current() -> Builder:
    """The builder of the kernel that is being traced; an error outside of one."""
    builder = _current.get(None)
    if builder is None:
        raise CompileFailed(
            "a function of the kernel language was called outside of a kernel",
            cause="it only has a meaning while a @kernel function is compiled",
            next="call it from a function decorated with @kernel",
        )
    return builder


class Builder:
    """Text of one kernel under construction. Owned by one trace, used by one thread."""

    def __init__(self, target: Target, name: str, group_size: int) -> None:
        self.target = target
        self.name = name
        self.group_size = group_size
        self.mask: Value | None = None
        self.group_id: str = ""
        self.declarations: dict[str, str] = {}
        self.globals: list[str] = []
        self.metadata: list[str] = []
        self.shared_bytes = 0
        self.open_loops: list[str] = []
        self._entry: list[str] = []
        self._lines: list[str] = []
        self._names = 0
        self._block = "entry"

    @contextmanager
    def tracing(self) -> Generator[None]:
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    # Text ---------------------------------------------------------------------------------

    def fresh(self, hint: str = "v") -> str:
        self._names += 1
        return f"{hint}{self._names}"

    def emit(self, line: str) -> None:
        self._lines.append("  " + line)

    def assign(self, expression: str) -> str:
        """Emit `%name = expression`, return `%name`."""
        name = "%" + self.fresh()
        self.emit(f"{name} = {expression}")
        return name

    def call(self, result: str, function: str, *arguments: tuple[str, str]) -> str:
        """Call an intrinsic or function by mangled name, declaring it on first use.

        result and each argument's first half are LLVM types; returns the result's name, or "" for
        a void call. An argument type may carry attributes after a blank ("i32 immarg").
        """
        plain = [(type.split(" immarg")[0], text) for type, text in arguments]
        self.declare(result, function, [type for type, _ in arguments])
        text = f"call {result} @{function}({', '.join(f'{t} {x}' for t, x in plain)})"
        if result == "void":
            self.emit(text)
            return ""
        return self.assign(text)

    def declare(self, result: str, function: str, arguments: list[str]) -> None:
        self.declarations.setdefault(
            function, f"declare {result} @{function}({', '.join(arguments)})"
        )

    def node(self, content: str) -> str:
        """A metadata node of that content, made once: `!3`."""
        for number, line in enumerate(self.metadata):
            if line == f"!{number} = {content}":
                return f"!{number}"
        self.metadata.append(f"!{len(self.metadata)} = {content}")
        return f"!{len(self.metadata) - 1}"

    def begin_block(self, name: str) -> None:
        self._lines.append(f"{name}:")
        self._block = name

    @property
    def block(self) -> str:
        """The name of the block that instructions go to now."""
        return self._block

    def allocate(self, type: str, count: int = 1, align: int = 64) -> str:
        """Stack memory of the function, in its entry block so that SROA can make it registers."""
        name = "%" + self.fresh("local")
        space = ", addrspace(5)" if self.target.family == "amdgpu" else ""
        size = f", i32 {count}" if count > 1 else ""
        self._entry.append(f"  {name} = alloca {type}{size}, align {align}{space}")
        if not space:
            return name
        flat = "%" + self.fresh("local")
        self._entry.append(f"  {flat} = addrspacecast ptr addrspace(5) {name} to ptr")
        return flat

    def entry_line(self, line: str) -> None:
        """A line for the entry block, before everything that is emitted."""
        self._entry.append("  " + line)

    def body(self) -> str:
        return "\n".join([*self._entry, "  br label %start", "start:", *self._lines])

    # Capabilities -------------------------------------------------------------------------

    def require(self, capability: str, what: str) -> None:
        """Refuse, with the kernel's file and line, what the target cannot do."""
        if not self.target.has(capability):
            place = kernel_place()
            raise NotOnTarget(
                f"{place}: {what} does not exist on {self.target.name}",
                cause=f"kernel {self.name!r} needs the capability {capability!r}",
                next=f"exosuit kernels --target {self.target.name}",
                capability=capability,
                place=place,
            )

    # Control flow -------------------------------------------------------------------------

    def branch(self, condition: str, yes: str, no: str) -> None:
        self.emit(f"br i1 {condition}, label %{yes}, label %{no}")

    def jump(self, to: str, loop_metadata: str = "") -> None:
        self.emit(f"br label %{to}{loop_metadata}")

    @contextmanager
    def masked(self, mask: Value) -> Generator[None]:
        """Within, variables and stores change only the lanes where `mask` holds (CPU vectors)."""
        before = self.mask
        self.mask = mask if before is None else before & mask
        try:
            yield
        finally:
            self.mask = before


def kernel_place() -> str:
    """File and line of the innermost frame that is not the language itself: the kernel's."""
    frame = inspect.currentframe()
    while frame is not None and _is_machinery(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    if frame is None:
        return "unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_machinery(module: str) -> bool:
    return module == "contextlib" or f"{module}.".startswith("exosuit.kernel.")


def refuse(what: str, cause: str) -> CompileFailed:
    """A CompileFailed that names the kernel's line; for wrong use of the language."""
    place = kernel_place()
    return CompileFailed(
        f"{place}: {what}", cause=cause, next="correct the kernel at that line", place=place
    )
