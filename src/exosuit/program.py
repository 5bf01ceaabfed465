"""The compiled program: what the kernel language hands to a driver, and all that a driver needs.

`kernel` and `driver` never import each other; they meet here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Access(Enum):
    """What a program does with a parameter; graphs place their fences by it."""

    VALUE = "value"
    IN = "in"
    OUT = "out"
    INOUT = "inout"

    @property
    def reads(self) -> bool:
        return self in (Access.IN, Access.INOUT)

    @property
    def writes(self) -> bool:
        return self in (Access.OUT, Access.INOUT)


@dataclass(frozen=True)
class Parameter:
    """One argument, eight bytes wide in the argument block whatever its type.

    `dtype` is the element type behind a pointer, or the type of a value (`i32`, `i64`, `f32`).
    """

    name: str
    dtype: str
    access: Access


@dataclass(frozen=True)
class Program:
    """Machine code for one target.

    code        a relocatable object (CPU, AMD) or PTX text or a cubin (NVIDIA)
    entry       the symbol to start
    group_size  lanes of one workgroup; on a CPU a workgroup is one call and this is 1
    shared      bytes of workgroup memory, static part
    """

    name: str
    target: str
    entry: str
    code: bytes
    parameters: tuple[Parameter, ...]
    group_size: int
    shared_bytes: int
