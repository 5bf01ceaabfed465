"""Scalar and vector types of the kernel language.

A data type is a class (`f32`, `u8`), so that it can stand in an annotation: `In[f32]`.
A `Type` is a data type times a number of lanes: what a `Value` has.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar


class DType:
    """A scalar type. `kind` is "int", "uint", "float" or "bool"; `ir` is LLVM's name."""

    bits: ClassVar[int]
    kind: ClassVar[str]
    ir: ClassVar[str]


class boolean(DType):
    bits, kind, ir = 1, "bool", "i1"


class i8(DType):
    bits, kind, ir = 8, "int", "i8"


class i16(DType):
    bits, kind, ir = 16, "int", "i16"


class i32(DType):
    bits, kind, ir = 32, "int", "i32"


class i64(DType):
    bits, kind, ir = 64, "int", "i64"


class u8(DType):
    bits, kind, ir = 8, "uint", "i8"


class u16(DType):
    bits, kind, ir = 16, "uint", "i16"


class u32(DType):
    bits, kind, ir = 32, "uint", "i32"


class u64(DType):
    bits, kind, ir = 64, "uint", "i64"


class f16(DType):
    bits, kind, ir = 16, "float", "half"


class bf16(DType):
    bits, kind, ir = 16, "float", "bfloat"


class f32(DType):
    bits, kind, ir = 32, "float", "float"


class f64(DType):
    bits, kind, ir = 64, "float", "double"


DTypeClass = type[DType]


@dataclass(frozen=True)
class Type:
    """`dtype` times `lanes`; one lane is a scalar."""

    dtype: DTypeClass
    lanes: int = 1

    @property
    def ir(self) -> str:
        return self.dtype.ir if self.lanes == 1 else f"<{self.lanes} x {self.dtype.ir}>"

    @property
    def bits(self) -> int:
        return self.dtype.bits * self.lanes

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "float"

    @property
    def is_signed(self) -> bool:
        return self.dtype.kind == "int"

    @property
    def suffix(self) -> str:
        """How LLVM mangles the type into an intrinsic's name: `v8f32`, `i32`."""
        letter = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64"}
        scalar = letter.get(self.dtype.ir, self.dtype.ir)
        return scalar if self.lanes == 1 else f"v{self.lanes}{scalar}"

    def __str__(self) -> str:
        name = self.dtype.__name__
        return name if self.lanes == 1 else f"{name}x{self.lanes}"


def constant_text(type: Type, value: float) -> str:
    """LLVM's spelling of a constant, the same in every lane."""
    dtype = type.dtype
    if dtype is boolean:
        text = "true" if value else "false"
    elif dtype.kind != "float":
        text = str(int(value))
    elif dtype is f16:
        text = f"0xH{int.from_bytes(struct.pack('>e', value), 'big'):04X}"
    elif dtype is bf16:
        bits = struct.unpack(">I", struct.pack(">f", value))[0]
        if value == value:  # to nearest, ties to even; a NaN keeps its bits
            bits += 0x7FFF + (bits >> 16 & 1)
        text = f"0xR{bits >> 16:04X}"
    else:
        exact = value if dtype is f64 else struct.unpack(">f", struct.pack(">f", value))[0]
        text = f"0x{int.from_bytes(struct.pack('>d', exact), 'big'):016X}"
    return text if type.lanes == 1 else f"splat ({dtype.ir} {text})"
