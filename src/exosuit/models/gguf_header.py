"""The header of a GGUF file: what the model says of itself, and where its tensors lie.

Nothing in the file is trusted. A count is compared with the bytes that are left before anything is
made of that size, so memory stays within a small multiple of the header; every number that places
something is checked. Strings that people see (tokens, names, templates) may be any bytes: what is
not UTF-8 is kept by `surrogateescape`, so that `value.encode("utf-8", "surrogateescape")` gives
the bytes back. Keys and tensor names must be printable UTF-8.

Source: docs/gguf.md of ggml (versions 2 and 3 differ only in byte order being allowed to vary).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.ops.quants import StorageType
from exosuit.units import round_up

Data = bytes | mmap.mmap
Value = int | float | bool | str | list[str] | NDArray[Any]
"""A metadata value. Lists of numbers are read-only arrays, lists of strings are lists of str."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
LONGEST_NAME = (1 << 16) - 1
"""Bytes of a key, by the specification; tensor names get the same room."""

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_DTYPES = {number: np.dtype(name) for number, name in _NUMBERS.items()}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SMALLEST_PAIR = 8 + 1 + 4 + 1  # key of one byte, type, value of one byte
_SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8  # name of one byte, dimensions, one length, type, offset

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies and how it is stored.

    shape   in NumPy's order: rows first, the length of a row last
    offset  in bytes, from the beginning of its file
    part    which file of a split model, from 0
    """

    name: str
    shape: tuple[int, ...]
    type: StorageType
    size_bytes: int
    offset: int
    part: int = 0

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class GgufHeader:
    """The parsed header. Its values are copies: it outlives the bytes that it was read from.

    size_bytes  of the header, padding included: tensor data begins there
    """

    name: str
    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]
    size_bytes: int

    @staticmethod
    def parse(data: Data, name: str = "the file", *, part: int = 0) -> GgufHeader:
        """Read a header from the beginning of a file; bytes after it do not matter.

        Raises CorruptFile or UnsupportedModel; a header that is cut short is a CorruptFile with
        the field `truncated`, so that a caller with only the first bytes can fetch more.
        """
        return _Reader(data, name).header(part)

    def check_extent(self, file_size: int) -> None:
        """CorruptFile if a tensor reaches beyond a file of that many bytes."""
        last = max(self.tensors.values(), key=lambda t: t.offset + t.size_bytes, default=None)
        if last is not None and last.offset + last.size_bytes > file_size:
            end = last.offset + last.size_bytes
            raise CorruptFile(
                f"{self.name} ends in the middle of its tensors",
                cause=f"{last.name} would end at byte {end}, the file has {file_size};"
                " a download or copy was cut short",
                next="download the model again: exosuit pull",
                tensor=last.name,
                end=end,
                file_size=file_size,
            )

    def require(self, key: str, kind: type[T]) -> T:
        """The value of `key`, which must be a `kind`: int, float, bool, str, list or np.ndarray.

        An int passes for a float. Raises CorruptFile if the key is missing or of another kind.
        """
        if key not in self.metadata:
            raise CorruptFile(
                f"{self.name} does not say its {key}",
                cause="it was converted by a tool that leaves this key out, or is no model",
                next="choose another file of this model: exosuit pull",
                key=key,
            )
        return self._typed(key, kind)

    @overload
    def get(self, key: str, kind: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[T], default: Any = None) -> Any:
        """Like `require`, but `default` where the key is missing."""
        return self._typed(key, kind) if key in self.metadata else default

    def _typed(self, key: str, kind: type[T]) -> T:
        value: Any = self.metadata[key]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CorruptFile(
                f"{self.name}: {key} has the wrong type",
                cause=f"it must be {kind.__name__}; it is {type(value).__name__}",
                next="choose another file of this model: exosuit pull",
                key=key,
                wanted=kind.__name__,
                found=type(value).__name__,
            )
        return value


class _Reader:
    """Walks over the bytes of one header."""

    def __init__(self, data: Data, name: str) -> None:
        self.data = data
        self.end = len(data)
        self.at = 0
        self.name = name

    def header(self, part: int) -> GgufHeader:
        version = self.version()
        tensor_count = self.count("tensors", _SMALLEST_TENSOR)
        pair_count = self.count("metadata keys", _SMALLEST_PAIR)
        metadata: dict[str, Value] = {}
        for _ in range(pair_count):
            key = self.label("key")
            if key in metadata:
                self.corrupt(f"the key {key} appears twice")
            metadata[key] = self.value(key)
        alignment = self.alignment(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
        found = [self.tensor(part) for _ in range(tensor_count)]
        size = round_up(self.at, alignment)
        tensors = self.placed(found, size, alignment)
        return GgufHeader(self.name, version, alignment, metadata, tensors, size)

    def version(self) -> int:
        magic = self.data[:4]
        if magic != MAGIC:
            raise CorruptFile(
                f"{self.name} is not a GGUF file",
                cause=f"it begins with {magic!r} instead of {MAGIC!r}" if magic else "it is empty",
                next="exosuit pull downloads models in this format",
                magic=magic,
            )
        self.at = 4
        version = self.u32()
        if version in VERSIONS:
            return version
        if version & 0xFFFF == 0:
            self.unsupported(
                "it is big-endian, made for an IBM Z or a similar machine",
                "choose a little-endian file of this model: exosuit pull",
                version=version,
            )
        self.unsupported(
            f"it has version {version} of the format; exosuit reads versions 2 and 3",
            "choose a newer file of this model: exosuit pull"
            if version < VERSIONS[0]
            else "upgrade exosuit",
            version=version,
        )

    def alignment(self, value: Value) -> int:
        if type(value) is not int or value <= 0 or value & (value - 1):
            self.corrupt("general.alignment is not a power of two")
        return value

    def value(self, key: str) -> Value:
        kind = self.u32()
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(key)
        number = self.numbers(key, kind, 1)[0].item()
        assert isinstance(number, (int, float))
        return number

    def array(self, key: str) -> list[str] | NDArray[Any]:
        kind = self.u32()
        if kind == _ARRAY:
            self.unsupported(
                f"{key} is a list of lists", "choose another file of this model", key=key
            )
        if kind == _STRING:
            return self.texts(self.count(f"strings of {key}", _U64.size))
        return self.numbers(key, kind, self.u64())

    def numbers(self, key: str, kind: int, count: int) -> NDArray[Any]:
        """A read-only array with its own memory."""
        dtype = _DTYPES.get(kind)
        if dtype is None:
            self.corrupt(f"{key} has the unknown type {kind}")
        stored = self.take(count * dtype.itemsize)
        if kind == _BOOL and stored.strip(b"\0\1"):
            self.corrupt(f"{key} holds truth values other than 0 and 1")
        return np.frombuffer(stored, dtype)

    def texts(self, count: int) -> list[str]:
        """Many strings. A vocabulary has 10^5 and more, so this loop is written for speed."""
        data, end, at = self.data, self.end, self.at
        length_at = _U64.unpack_from
        found: list[str] = []
        append = found.append
        for _ in range(count):
            start = at + 8
            if start > end:
                self.truncated()
            at = start + length_at(data, at)[0]
            if at > end:
                self.truncated()
            append(data[start:at].decode("utf-8", "surrogateescape"))
        self.at = at
        return found

    def text(self) -> str:
        return self.take(self.u64()).decode("utf-8", "surrogateescape")

    def label(self, what: str) -> str:
        """A key or the name of a tensor."""
        length = self.u64()
        if not 0 < length <= LONGEST_NAME:
            self.corrupt(f"the {what} at byte {self.at} has {length} bytes")
        text = self.take(length).decode("utf-8", "surrogateescape")
        if not text.isprintable():  # escaped bytes are not printable either
            self.corrupt(f"the {what} at byte {self.at - length} is not printable UTF-8")
        return text

    def tensor(self, part: int) -> Tensor:
        """One entry of the list; its offset still counts from the end of the header."""
        name = self.label("tensor name")
        dimensions = self.u32()
        if not 0 < dimensions <= MOST_DIMENSIONS:
            self.corrupt(f"{name} has {dimensions} dimensions")
        shape = tuple(self.u64() for _ in range(dimensions))[::-1]
        number, offset = self.u32(), self.u64()
        if 0 in shape:
            self.corrupt(f"{name} has the shape {list(shape)}: there is nothing in it")
        try:
            type = StorageType(number)
        except ValueError:
            self.unsupported(
                f"{name} is stored as type {number}, which exosuit does not know",
                "choose another storage type of this model, such as Q4_K_M: exosuit pull",
                tensor=name,
                type=number,
            )
        if shape[-1] % type.block:
            self.corrupt(
                f"{name} has rows of {shape[-1]}; {type.label} comes in blocks of {type.block}"
            )
        size = prod(shape[:-1]) * type.row_bytes(shape[-1])
        return Tensor(name, shape, type, size, offset, part)

    def placed(self, found: list[Tensor], base: int, alignment: int) -> dict[str, Tensor]:
        """The tensors by name, in the file's order, with offsets from the beginning of the file."""
        tensors: dict[str, Tensor] = {}
        for t in found:
            if t.name in tensors:
                self.corrupt(f"there are two tensors called {t.name}")
            if t.offset % alignment:
                self.corrupt(f"{t.name} lies at {t.offset}, not a multiple of {alignment}")
            place = base + t.offset
            tensors[t.name] = Tensor(t.name, t.shape, t.type, t.size_bytes, place, t.part)
        in_order = sorted(tensors.values(), key=lambda t: t.offset)
        for before, after in pairwise(in_order):
            if before.offset + before.size_bytes > after.offset:
                self.corrupt(f"{before.name} and {after.name} overlap")
        return tensors

    def count(self, what: str, smallest: int) -> int:
        """A number of things that take at least `smallest` bytes each."""
        count = self.u64()
        if count > (self.end - self.at) // smallest:
            self.truncated(f"{count} {what} cannot fit in the {self.end - self.at} bytes left")
        return count

    def u32(self) -> int:
        return _U32.unpack(self.take(4))[0]

    def u64(self) -> int:
        return _U64.unpack(self.take(8))[0]

    def take(self, size: int) -> bytes:
        start, stop = self.at, self.at + size
        if stop > self.end:
            self.truncated()
        self.at = stop
        return self.data[start:stop]

    def truncated(self, found: str = "") -> NoReturn:
        raise CorruptFile(
            f"{self.name} is damaged or cut short",
            cause=found or f"its header does not end within {self.end} bytes",
            next="download the model again: exosuit pull",
            truncated=True,
            offset=self.at,
        )

    def corrupt(self, found: str) -> NoReturn:
        raise CorruptFile(
            f"{self.name} is damaged",
            cause=found,
            next="download the model again: exosuit pull",
            offset=self.at,
        )

    def unsupported(self, found: str, next: str, **fields: Any) -> NoReturn:
        raise UnsupportedModel(f"{self.name} cannot be read", cause=found, next=next, **fields)
