"""The kernel language: a typed Python function in, a `Program` for a `Target` out."""

# ruff: noqa: F401 - this file is the list of what the floor offers

from exosuit.kernel.compile import ProgramCache, compile_kernel, emit, sources_hash
from exosuit.kernel.decorator import Kernel, Trace, kernel
from exosuit.kernel.language import *  # noqa: F403
from exosuit.kernel.matrix import MatrixTile
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
from exosuit.kernel.value import In, InOut, Lanes, Out, Pointer, Scalar, Value, Variable
