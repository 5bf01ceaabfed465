"""GGUF files of any shape, right or wrong, written byte by byte (independently of the reader)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = dict(zip(range(13), "BbHhIif?..Qqd", strict=True))


def text(value: str | bytes) -> bytes:
    stored = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(stored)) + stored


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return text(content)
    return struct.pack("<" + _FORMATS[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, content)


def array(key: str, kind: int, contents: list[Any]) -> bytes:
    head = text(key) + struct.pack("<IIQ", ARRAY, kind, len(contents))
    return head + b"".join(value(kind, content) for content in contents)


@dataclass
class Entry:
    """An entry of the tensor list; `shape` in the file's order, the length of a row first."""

    name: str | bytes = "weight"
    shape: tuple[int, ...] = (32, 4)
    kind: int = 8  # Q8_0
    offset: int = 0

    def stored(self) -> bytes:
        dimensions = struct.pack("<I", len(self.shape))
        lengths = struct.pack(f"<{len(self.shape)}Q", *self.shape)
        return text(self.name) + dimensions + lengths + struct.pack("<IQ", self.kind, self.offset)


@dataclass
class Builder:
    """`build()` writes what the fields say, whether or not it makes sense."""

    pairs: list[bytes] = field(default_factory=lambda: [pair("general.architecture", STRING, "x")])
    entries: list[Entry] = field(default_factory=lambda: [Entry()])
    data: bytes = bytes(range(136))
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    tensor_count: int | None = None
    pair_count: int | None = None

    def header(self) -> bytes:
        tensors = len(self.entries) if self.tensor_count is None else self.tensor_count
        pairs = len(self.pairs) if self.pair_count is None else self.pair_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, pairs)
        return head + b"".join(self.pairs) + b"".join(entry.stored() for entry in self.entries)

    def build(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data
