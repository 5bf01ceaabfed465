"""`Struct`: named slots over bytes, a live view of memory that driver and card may share.

Slots follow each other in the order of their declaration unless `at=` places them; everything is
little-endian and packed, padding is a gap. `SIZE`, where given, is checked against the slots.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

from exosuit.datasheet.words import DescriptionError, Verified, Word, nearest

V = TypeVar("V")
W = TypeVar("W", bound=Word)
S = TypeVar("S", bound="Struct")

Buffer = bytes | bytearray | memoryview


class Slot(Generic[V]):
    """One slot: where it lies, how many bytes it takes, how its value is read and written."""

    def __init__(self, size: int, at: int | None, doc: str) -> None:
        self.name = ""
        self.size = size
        self.given_at = at
        self.offset = 0
        self.doc = doc

    def __set_name__(self, owner: type[Struct], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, view: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, view: Struct, owner: Any = None) -> V: ...
    def __get__(self, view: Struct | None, owner: Any = None) -> Self | V:
        return self if view is None else self.read(view.memory, self.offset)

    def __set__(self, view: Struct, value: V) -> None:
        self.write(view.memory, self.offset, value)

    def read(self, memory: memoryview, offset: int) -> V:
        raise NotImplementedError

    def write(self, memory: memoryview, offset: int, value: V) -> None:
        raise NotImplementedError

    def out_of_range(self, value: object, cause: Exception) -> ValueError:
        error = ValueError(f"{self.name} holds {self.size} bytes; {value!r} does not fit")
        error.__cause__ = cause
        return error


class NumberSlot(Slot[V]):
    """A plain number, read and written by a `struct` code."""

    def __init__(self, code: str, at: int | None, doc: str) -> None:
        self.packer = struct.Struct("<" + code)
        super().__init__(self.packer.size, at, doc)

    def read(self, memory: memoryview, offset: int) -> V:
        return cast("V", self.packer.unpack_from(memory, offset)[0])

    def write(self, memory: memoryview, offset: int, value: V) -> None:
        try:
            self.packer.pack_into(memory, offset, value)
        except struct.error as error:
            raise self.out_of_range(value, error) from error


class WordSlot(Slot[W]):
    """A number with named fields."""

    def __init__(self, kind: type[W], at: int | None, doc: str) -> None:
        self.kind = kind
        super().__init__(kind.WIDTH // 8, at, doc)

    def read(self, memory: memoryview, offset: int) -> W:
        return self.kind(int.from_bytes(memory[offset : offset + self.size], "little"))

    def write(self, memory: memoryview, offset: int, value: W) -> None:
        memory[offset : offset + self.size] = self.kind(value).encode()


class DataSlot(Slot[bytes]):
    """Raw bytes; shorter values are padded with zeros."""

    def read(self, memory: memoryview, offset: int) -> bytes:
        return bytes(memory[offset : offset + self.size])

    def write(self, memory: memoryview, offset: int, value: bytes) -> None:
        if len(value) > self.size:
            raise ValueError(f"{self.name} holds {self.size} bytes; got {len(value)}")
        memory[offset : offset + self.size] = value.ljust(self.size, b"\0")


class Items(Generic[V]):
    """The elements of an array slot, live."""

    def __init__(self, item: Slot[V], memory: memoryview, offset: int, count: int) -> None:
        self._item = item
        self._memory = memory
        self._offset = offset
        self._count = count

    def __len__(self) -> int:
        return self._count

    def _place(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"element {index} of an array of {self._count}")
        return self._offset + index * self._item.size

    def __getitem__(self, index: int) -> V:
        return self._item.read(self._memory, self._place(index))

    def __setitem__(self, index: int, value: V) -> None:
        self._item.write(self._memory, self._place(index), value)

    def __iter__(self) -> Iterator[V]:
        return (self[index] for index in range(self._count))


class ArraySlot(Slot[Items[V]]):
    """`count` elements of one slot, one after the other."""

    def __init__(self, item: Slot[V], count: int, at: int | None, doc: str) -> None:
        self.item = item
        self.count = count
        super().__init__(item.size * count, at, doc)

    def read(self, memory: memoryview, offset: int) -> Items[V]:
        return Items(self.item, memory, offset, self.count)

    def write(self, memory: memoryview, offset: int, value: Any) -> None:
        values = list(value)
        if len(values) > self.count:
            raise ValueError(f"{self.name} holds {self.count} elements; got {len(values)}")
        items = self.read(memory, offset)
        for index, element in enumerate(values):
            items[index] = element


class EmbeddedSlot(Slot[S]):
    """A structure inside a structure."""

    def __init__(self, kind: type[S], at: int | None, doc: str) -> None:
        self.kind = kind
        super().__init__(kind.SIZE, at, doc)

    def read(self, memory: memoryview, offset: int) -> S:
        return self.kind(memory[offset : offset + self.size])

    def write(self, memory: memoryview, offset: int, value: S) -> None:
        memory[offset : offset + self.size] = bytes(value)


class Struct:
    """Named slots over the bytes at `offset` of `buffer`; a view, not a copy.

    `Struct.make(slot=value, ...)` builds one over fresh zeros; `bytes(view)` takes a copy. A buffer
    that is too short raises ValueError, so callers that parse foreign bytes measure them first.
    """

    SIZE: ClassVar[int] = 0
    SOURCE: ClassVar[str] = ""
    VERIFIED: ClassVar[Verified] = "document"
    SLOTS: ClassVar[dict[str, Slot[Any]]] = {}

    def __init_subclass__(cls) -> None:
        slots = dict(cls.SLOTS)  # those of the earlier generation, already placed
        cursor = max((slot.offset + slot.size for slot in slots.values()), default=0)
        for name, value in vars(cls).items():
            if not isinstance(value, Slot):
                continue
            slot = cast("Slot[Any]", value)
            hidden = next((vars(b)[name] for b in cls.__mro__[1:] if name in vars(b)), slot)
            if not isinstance(hidden, Slot):
                raise DescriptionError(f"{cls.__name__}.{name} would hide a name of Struct")
            slot.offset = cursor if slot.given_at is None else slot.given_at
            slots[name] = slot
            cursor = slot.offset + slot.size
        taken = sorted(slots.values(), key=lambda slot: slot.offset)
        for before, after in pairwise(taken):
            if before.offset + before.size > after.offset:
                raise DescriptionError(f"{cls.__name__}.{after.name} overlaps {before.name}")
        end = max((slot.offset + slot.size for slot in taken), default=0)
        if "SIZE" not in vars(cls):
            type.__setattr__(cls, "SIZE", max(end, cls.SIZE))
        if end > cls.SIZE:
            raise DescriptionError(f"{cls.__name__} is {cls.SIZE} bytes; its slots need {end}")
        type.__setattr__(cls, "SLOTS", slots)

    def __init__(self, buffer: Buffer, offset: int = 0) -> None:
        view = memoryview(buffer).cast("B")
        if offset < 0 or len(view) - offset < self.SIZE:
            raise ValueError(
                f"{type(self).__name__} needs {self.SIZE} bytes; {len(view) - offset} are there"
            )
        self.memory = view[offset:]

    @classmethod
    def make(cls, **slots: Any) -> Self:
        """A new structure over zeros with these slots filled."""
        made = cls(bytearray(cls.SIZE))
        made.assign(**slots)
        return made

    def assign(self, **slots: Any) -> None:
        """Write several slots at once."""
        for name, value in slots.items():
            slot = self.SLOTS.get(name)
            if slot is None:
                hint = nearest(name, self.SLOTS)
                raise TypeError(f"{type(self).__name__} has no slot {name}{hint}")
            slot.write(self.memory, slot.offset, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.SLOTS and name != "memory":
            hint = nearest(name, self.SLOTS)
            raise AttributeError(f"{type(self).__name__} has no slot {name}{hint}")
        object.__setattr__(self, name, value)

    def __bytes__(self) -> bytes:
        return bytes(self.memory[: self.SIZE])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bytes(self) == bytes(cast("Struct", other))

    __hash__ = None  # type: ignore[assignment]  # a live view must not be a key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.explain()})"

    def explain(self) -> str:
        """Every slot as `name=value`, numbers in hexadecimal."""
        shown: list[str] = []
        for name, slot in self.SLOTS.items():
            value = slot.read(self.memory, slot.offset)
            if isinstance(value, Word):
                shown.append(f"{name}=({value.explain()})")
            elif isinstance(value, int):
                shown.append(f"{name}={value:#x}")
            elif isinstance(value, bytes):
                shown.append(f"{name}={value.hex()}")
            elif isinstance(value, Items):
                shown.append(f"{name}=[{len(cast('Items[Any]', value))}]")
            else:
                shown.append(f"{name}={value}")
        return " ".join(shown)


def u8(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("B", at, doc)


def u16(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("H", at, doc)


def u32(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("I", at, doc)


def u64(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("Q", at, doc)


def i8(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("b", at, doc)


def i16(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("h", at, doc)


def i32(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("i", at, doc)


def i64(doc: str = "", *, at: int | None = None) -> Slot[int]:
    return NumberSlot("q", at, doc)


def f32(doc: str = "", *, at: int | None = None) -> Slot[float]:
    return NumberSlot("f", at, doc)


def word(kind: type[W], doc: str = "", *, at: int | None = None) -> Slot[W]:
    """A slot that holds a `Word`."""
    return WordSlot(kind, at, doc)


def data(size: int, doc: str = "", *, at: int | None = None) -> Slot[bytes]:
    """A slot of `size` raw bytes."""
    return DataSlot(size, at, doc)


def array(item: Slot[V], count: int, doc: str = "", *, at: int | None = None) -> Slot[Items[V]]:
    """`count` elements of `item`."""
    return ArraySlot(item, count, at, doc)


def embed(kind: type[S], doc: str = "", *, at: int | None = None) -> Slot[S]:
    """A structure inside this one."""
    return EmbeddedSlot(kind, at, doc)
