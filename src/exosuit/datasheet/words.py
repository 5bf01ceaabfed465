"""`Word`: a fixed number of bits with named fields, which is also the integer that it encodes.

Positions are written as manuals print them, high bit first. A field that lies in several pieces is
one field made of pieces, so nobody shifts by hand. Words may be as wide as a queue descriptor of
3,072 bits.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterable
from enum import Enum, IntEnum
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast, overload

F = TypeVar("F", bound=int)
K = TypeVar("K", bound=IntEnum)

Verified = Literal["hardware", "document", "assumed"]
"""How a description is known: seen on a real part, read in a public document, or guessed."""


class DescriptionError(TypeError):
    """A description that contradicts itself; raised when its class is made."""


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint `; did you mean NAME?` for a misspelt name, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


class Field(Generic[F]):
    """One field: its pieces from the most significant to the least, and the type of its values.

    pieces  (high, low) bit positions; their widths add up to the width of the field
    """

    def __init__(
        self, pieces: tuple[tuple[int, int], ...], doc: str, convert: type[F] | None
    ) -> None:
        if any(high < low or low < 0 for high, low in pieces):
            raise DescriptionError(f"bits {pieces}: give the high bit first, none below zero")
        self.name = ""
        self.pieces = pieces
        self.doc = doc
        self.convert = convert
        self.high = max(high for high, _ in pieces)
        self.low = pieces[-1][1]
        self.width = sum(high - low + 1 for high, low in pieces)
        self.maximum = (1 << self.width) - 1
        self.mask = sum(((1 << (high - low + 1)) - 1) << low for high, low in pieces)

    def __set_name__(self, owner: type[Word], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, word: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, word: Word, owner: Any = None) -> F: ...
    def __get__(self, word: Word | None, owner: Any = None) -> Self | F:
        if word is None:
            return self
        value = self.extract(word)
        if self.convert is None:
            return cast("F", value)
        try:
            return self.convert(value)
        except ValueError:  # a value that the vendor's list lacks is still a value
            return cast("F", value)

    def extract(self, word: int) -> int:
        """The raw value of this field in `word`."""
        if len(self.pieces) == 1:
            return (int(word) >> self.low) & self.maximum
        value = 0
        for high, low in self.pieces:
            width = high - low + 1
            value = value << width | (int(word) >> low) & ((1 << width) - 1)
        return value

    def place(self, value: int) -> int:
        """`value` at this field's position; refuses what does not fit."""
        number = int(value)
        if not 0 <= number <= self.maximum:
            raise ValueError(
                f"{self.name} is {self.width} bits wide, 0 to {self.maximum:#x}; got {number:#x}"
            )
        if len(self.pieces) == 1:
            return number << self.low
        placed = 0
        for high, low in reversed(self.pieces):
            width = high - low + 1
            placed |= (number & ((1 << width) - 1)) << low
            number >>= width
        return placed

    def describe(self, word: int) -> str:
        """`name=value` for people: the enumerator's name, or hexadecimal."""
        raw = self.extract(word)
        if self.convert is not None and issubclass(self.convert, Enum):
            try:
                return f"{self.name}={cast('Enum', self.convert(raw)).name}"
            except ValueError:
                return f"{self.name}={raw:#x}"
        return f"{self.name}={raw}" if raw < 10 else f"{self.name}={raw:#x}"


@overload
def bits(high: int, low: int, doc: str = "") -> Field[int]: ...
@overload
def bits(high: int, low: int, doc: str = "", *, kind: type[K]) -> Field[K]: ...
def bits(high: int, low: int, doc: str = "", *, kind: type[Any] | None = None) -> Field[Any]:
    """The field in bits `high` down to `low`, both included; `kind` names its values."""
    return split((high, low), doc=doc) if kind is None else Field(((high, low),), doc, kind)


def flag(bit: int, doc: str = "") -> Field[bool]:
    """The one-bit field at `bit`."""
    return Field(((bit, bit),), doc, bool)


def split(*pieces: tuple[int, int], doc: str = "") -> Field[int]:
    """One field made of several (high, low) pieces, the most significant first."""
    return Field(pieces, doc, None)


class Word(int):
    """A number of `WIDTH` bits with named fields.

    `Word(number)` decodes, `Word(field=value, ...)` encodes, `Word(number, field=value)` changes
    some fields and keeps every other bit, reserved ones included. Values are immutable.
    """

    WIDTH: ClassVar[int] = 32
    SOURCE: ClassVar[str] = ""
    VERIFIED: ClassVar[Verified] = "document"
    FIELDS: ClassVar[dict[str, Field[Any]]] = {}

    def __init_subclass__(cls) -> None:
        found: dict[str, Field[Any]] = {}
        for ancestor in reversed(cls.__mro__):
            for name, value in vars(ancestor).items():
                if isinstance(value, Field):
                    found[name] = cast("Field[Any]", value)
                else:
                    found.pop(name, None)  # `name = None` in a later generation removes a field
        taken = 0
        for name, field in found.items():
            if hasattr(int, name) or name in _RESERVED:
                raise DescriptionError(f"{cls.__name__}.{name} would hide a method of its word")
            if field.high >= cls.WIDTH:
                raise DescriptionError(
                    f"{cls.__name__}.{name} reaches bit {field.high} of {cls.WIDTH}"
                )
            if taken & field.mask or field.mask.bit_count() != field.width:
                raise DescriptionError(f"{cls.__name__}.{name} overlaps another field")
            taken |= field.mask
        type.__setattr__(cls, "FIELDS", found)

    def __new__(cls, value: int = 0, /, **fields: int) -> Self:
        number = int(value)
        for name, field_value in fields.items():
            field = cls.FIELDS.get(name)
            if field is None:
                raise TypeError(f"{cls.__name__} has no field {name}{nearest(name, cls.FIELDS)}")
            number = number & ~field.mask | field.place(field_value)
        if not 0 <= number < 1 << cls.WIDTH:
            raise ValueError(f"{cls.__name__} is {cls.WIDTH} bits wide; got {number:#x}")
        return super().__new__(cls, number)

    def replace(self, **fields: int) -> Self:
        """The same word with some fields changed; every other bit stays."""
        return type(self)(self, **fields)

    def encode(self) -> bytes:
        """Little-endian bytes, `WIDTH` / 8 of them."""
        return self.to_bytes(self.WIDTH // 8, "little")

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """The word in the first `WIDTH` / 8 bytes of `data`, little-endian."""
        return cls(int.from_bytes(data[: cls.WIDTH // 8], "little"))

    def table(self, count: int, **steps: int) -> array[int]:
        """`count` words, this one first, each field of `steps` growing by its step per word.

        The bulk form for page tables: `Pte(valid=True, frame=f).table(512, frame=1)`. The result
        has typecode "I" for 32-bit words and "Q" for 64-bit ones. Raises ValueError where the last
        value would leave its field.
        """
        code = {32: "I", 64: "Q"}.get(self.WIDTH)
        if code is None:
            raise TypeError(
                f"{type(self).__name__} is {self.WIDTH} bits wide; tables hold 32 or 64"
            )
        increment = 0
        for name, step in steps.items():
            field = self.FIELDS.get(name)
            if field is None:
                hint = nearest(name, self.FIELDS)
                raise TypeError(f"{type(self).__name__} has no field {name}{hint}")
            if len(field.pieces) != 1:
                raise TypeError(f"{name} lies in {len(field.pieces)} pieces and cannot be stepped")
            field.place(field.extract(self) + step * max(count - 1, 0))
            increment += step << field.low
        if increment == 0:
            return array(code, [int(self)]) * count
        return array(code, range(int(self), int(self) + increment * count, increment))

    def __repr__(self) -> str:
        width = self.WIDTH // 4
        shown = [f.describe(self) for f in self.FIELDS.values() if f.extract(self)]
        return (
            f"{type(self).__name__}({int(self):#0{width + 2}x}{''.join(', ' + s for s in shown)})"
        )

    def explain(self) -> str:
        """The fields that are not zero, as `name=value name=value`."""
        return " ".join(f.describe(self) for f in self.FIELDS.values() if f.extract(self))


_RESERVED = frozenset({"replace", "encode", "decode", "table", "explain"})
