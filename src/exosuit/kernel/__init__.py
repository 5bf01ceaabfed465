"""The kernel language: a typed Python function in, a `Program` for a `Target` out."""

from exosuit.kernel import dots, language, workgroup
from exosuit.kernel.compile import ProgramCache, compile_kernel, emit, sources_hash
from exosuit.kernel.decorator import Kernel, Trace, kernel
from exosuit.kernel.dots import *  # noqa: F403
from exosuit.kernel.language import *  # noqa: F403
from exosuit.kernel.matrix import MatrixTile
from exosuit.kernel.memory import In, InOut, Out, Pointer
from exosuit.kernel.target import Target
from exosuit.kernel.types import (
    DType,
    Type,
    bf16,
    boolean,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
    u64,
)
from exosuit.kernel.value import Lanes, Scalar, Value, Variable
from exosuit.kernel.workgroup import *  # noqa: F403

__all__ = [
    "DType", "In", "InOut", "Kernel", "Lanes", "MatrixTile", "Out", "Pointer", "ProgramCache",
    "Scalar", "Target", "Trace", "Type", "Value", "Variable", "bf16", "boolean", "compile_kernel",
    "emit", "f16", "f32", "f64", "i8", "i16", "i32", "i64", "kernel", "sources_hash", "u8", "u16",
    "u32", "u64",
]  # fmt: skip
__all__ += language.__all__
__all__ += workgroup.__all__
__all__ += dots.__all__
