"""The one idiom in which binary things are described: registers, structures, packets, entries.

A description is written once. The driver encodes with it, the software card decodes with it, the
tracer prints with it. Four shapes suffice:

    Word     a fixed number of bits with named fields; it *is* an `int`, immutable
    Struct   named slots over bytes; a live view, so both sides can look at the same memory
    Block    registers relative to a base, each with its access and its reset value
    Packet   a `Struct` that a stream of bytes can be split into

A wrong description (fields that overlap or leave their word, slots past the size) is refused when
its class is made. A misspelt field is refused with the nearest name, a value with its range.
"""

from exosuit.datasheet.packets import Packet, UnknownPacket
from exosuit.datasheet.registers import Access, Array, Block, Register, RegisterBus, at
from exosuit.datasheet.structs import (
    Struct,
    array,
    data,
    embed,
    f32,
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
    u64,
    word,
)
from exosuit.datasheet.words import DescriptionError, Field, Word, bits, flag, split

__all__ = [
    "Access",
    "Array",
    "Block",
    "DescriptionError",
    "Field",
    "Packet",
    "Register",
    "RegisterBus",
    "Struct",
    "UnknownPacket",
    "Word",
    "array",
    "at",
    "bits",
    "data",
    "embed",
    "f32",
    "flag",
    "i8",
    "i16",
    "i32",
    "i64",
    "split",
    "u8",
    "u16",
    "u32",
    "u64",
    "word",
]
