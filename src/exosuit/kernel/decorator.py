"""`@kernel`: a typed Python function becomes a compiler of itself.

    @kernel
    def scale(x: In[f32], out: Out[f32], factor: Scalar[f32], *, width: int) -> None:
        row = group()
        for i in each(width):
            out[row * width + i] = x[row * width + i] * factor

Positional parameters are the program's arguments: `In`, `Out`, `InOut` pointers and `Scalar`
numbers. Keyword-only parameters are static: Python values, fixed when the program is compiled;
each must have a `repr` that says all there is to know about it, because the cache is keyed by it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

from exosuit.errors import CompileFailed
from exosuit.kernel.builder import Builder
from exosuit.kernel.lowering import for_target
from exosuit.kernel.memory import In, InOut, Out, Pointer
from exosuit.kernel.target import Target
from exosuit.kernel.types import DTypeClass, Type
from exosuit.kernel.value import Scalar, Value
from exosuit.program import Access, Parameter

_ACCESS = {In: Access.IN, Out: Access.OUT, InOut: Access.INOUT, Scalar: Access.VALUE}


@dataclass(frozen=True)
class Trace:
    """One kernel for one target with all static parameters fixed, as LLVM IR."""

    name: str
    ir: str
    shared_bytes: int


class Kernel:
    """A function of the kernel language. Compile it with `exosuit.kernel.compile`."""

    def __init__(self, function: Callable[..., None], group_size: int) -> None:
        self.function = function
        self.name = function.__name__
        self.group_size = group_size
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The program's arguments, from the annotations."""
        return tuple(parameter for parameter, _ in self._signature())

    def trace(self, target: Target, **static: Any) -> Trace:
        """Run the function once and collect its IR."""
        builder = Builder(target, self.name, self.group_size)
        lowering = for_target(target)
        signature = self._signature()
        parameters = tuple(parameter for parameter, _ in signature)
        with builder.tracing():
            names = lowering.arguments(parameters)
            arguments = [
                self._argument(parameter, dtype, name, target)
                for (parameter, dtype), name in zip(signature, names, strict=True)
            ]
            self.function(*arguments, **static)
            if builder.open_loops:
                raise CompileFailed(
                    f"{builder.open_loops[-1]}: a loop left in the middle",
                    cause="break and return out of a loop of the machine have no meaning here",
                    next="use `with when(condition):`",
                    place=builder.open_loops[-1],
                )
            text = lowering.finish(builder, parameters)
        return Trace(self.name, text, builder.shared_bytes)

    def _argument(
        self, parameter: Parameter, dtype: DTypeClass, name: str, target: Target
    ) -> Value | Pointer[Any]:
        if parameter.access is Access.VALUE:
            return Value(Type(dtype), name)
        space = 1 if target.is_gpu else 0
        return Pointer(dtype, name, space, writable=parameter.access.writes)

    def _signature(self) -> list[tuple[Parameter, DTypeClass]]:
        hints = typing.get_type_hints(self.function)
        found: list[tuple[Parameter, DTypeClass]] = []
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                continue
            kind, dtype = typing.get_origin(hints.get(name)), typing.get_args(hints.get(name))
            if kind not in _ACCESS:
                raise CompileFailed(
                    f"kernel {self.name!r}: parameter {name!r} has no type of the language",
                    cause="arguments are In[...], Out[...], InOut[...] or Scalar[...]",
                    next="annotate it, or make it keyword-only to fix it while compiling",
                )
            found.append((Parameter(name, dtype[0].__name__, _ACCESS[kind]), dtype[0]))
        return found


@overload
def kernel(function: Callable[..., None]) -> Kernel: ...


@overload
def kernel(*, group_size: int = 256) -> Callable[[Callable[..., None]], Kernel]: ...


def kernel(
    function: Callable[..., None] | None = None, *, group_size: int = 256
) -> Kernel | Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel`; `group_size` is the number of lanes of its workgroups on a GPU."""
    if function is not None:
        return Kernel(function, group_size)
    return lambda f: Kernel(f, group_size)
