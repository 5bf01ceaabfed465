"""The storage types by their numbers in ggml, which are also their numbers in a GGUF file.

Source: enum ggml_type (ggml.h) and the block structures (ggml-common.h) of llama.cpp. Numbers that
are missing belong to types that were withdrawn: 4, 5 (Q4_2, Q4_3), 31 to 33 (Q4_0 repacked), 36 to
38 (IQ4_NL repacked).
"""

from __future__ import annotations

from enum import Enum
from typing import Self


class StorageType(Enum):
    """How the values of a tensor's rows are stored: blocks of `block` values in `block_bytes`.

    The value is ggml's number: `StorageType(12)` is `StorageType.Q4_K`.
    """

    block: int
    block_bytes: int

    # fmt: off
    #         id  block  bytes
    F32     =  0,    1,     4
    F16     =  1,    1,     2
    Q4_0    =  2,   32,    18
    Q4_1    =  3,   32,    20
    Q5_0    =  6,   32,    22
    Q5_1    =  7,   32,    24
    Q8_0    =  8,   32,    34
    Q8_1    =  9,   32,    36
    Q2_K    = 10,  256,    84
    Q3_K    = 11,  256,   110
    Q4_K    = 12,  256,   144
    Q5_K    = 13,  256,   176
    Q6_K    = 14,  256,   210
    Q8_K    = 15,  256,   292
    IQ2_XXS = 16,  256,    66
    IQ2_XS  = 17,  256,    74
    IQ3_XXS = 18,  256,    98
    IQ1_S   = 19,  256,    50
    IQ4_NL  = 20,   32,    18
    IQ3_S   = 21,  256,   110
    IQ2_S   = 22,  256,    82
    IQ4_XS  = 23,  256,   136
    I8      = 24,    1,     1
    I16     = 25,    1,     2
    I32     = 26,    1,     4
    I64     = 27,    1,     8
    F64     = 28,    1,     8
    IQ1_M   = 29,  256,    56
    BF16    = 30,    1,     2
    TQ1_0   = 34,  256,    54
    TQ2_0   = 35,  256,    66
    MXFP4   = 39,   32,    17
    NVFP4   = 40,   64,    36
    Q1_0    = 41,  128,    18
    # fmt: on

    def __new__(cls, number: int, block: int, block_bytes: int) -> Self:
        member = object.__new__(cls)
        member._value_ = number
        member.block = block
        member.block_bytes = block_bytes
        return member

    @property
    def label(self) -> str:
        """As llama.cpp and model pages spell it."""
        return self.name

    def row_bytes(self, length: int) -> int:
        """Bytes of a row of `length` values, which must be a multiple of `block`."""
        assert length % self.block == 0, (self.name, length)
        return length // self.block * self.block_bytes
