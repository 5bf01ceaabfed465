"""`Block`: registers relative to a base, with their access and reset value as data.

The driver makes a block over a BAR and reads and writes through it; the software card and the
tracer ask the same class which register lies at an offset. Offsets are as the manual prints them,
in units of `UNIT` bytes; where a chip counts a register from one of several bases, `segment` says
from which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, cast, overload

from exosuit.datasheet.words import DescriptionError, Verified, Word

W = TypeVar("W", bound=Word)

Access = Literal["rw", "ro", "wo", "w1c"]
"""Read-write, read-only, write-only, write one to clear."""


class RegisterBus(Protocol):
    """What registers are read from and written to: a BAR, usually."""

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Description(Generic[W]):
    """What a datasheet says of one register, or of an array of equal ones.

    offset, stride  in bytes from the base of its segment
    """

    name: str
    offset: int
    kind: type[W]
    access: Access
    reset: int
    count: int
    stride: int
    segment: int
    doc: str


class Register(Generic[W]):
    """One register of one block on one bus: live."""

    __slots__ = ("_bus", "description", "index", "offset")

    def __init__(
        self, bus: RegisterBus, offset: int, description: Description[W], index: int
    ) -> None:
        self._bus = bus
        self.offset = offset
        self.description = description
        self.index = index

    @property
    def name(self) -> str:
        description = self.description
        return description.name if description.count == 1 else f"{description.name}[{self.index}]"

    def read(self) -> W:
        """The register's value; 64-bit registers are read as two halves, low first."""
        self._refuse("read", "wo")
        value = self._bus.read32(self.offset)
        if self.description.kind.WIDTH == 64:
            value |= self._bus.read32(self.offset + 4) << 32
        return self.description.kind(value)

    def write(self, value: int = 0, /, **fields: int) -> None:
        """Write a value, or fields of which those not named are zero."""
        self._refuse("written", "ro")
        number = int(self.description.kind(value, **fields))
        self._bus.write32(self.offset, number & 0xFFFFFFFF)
        if self.description.kind.WIDTH == 64:
            self._bus.write32(self.offset + 4, number >> 32)

    def update(self, **fields: int) -> W:
        """Read, change the named fields, write back; every other bit stays. Gives what it wrote."""
        value = self.read().replace(**fields)
        self.write(value)
        return value

    def _refuse(self, verb: str, access: Access) -> None:
        if self.description.access == access:
            raise TypeError(f"{self.name} is {access}: it cannot be {verb}")


class Array(Generic[W]):
    """An array of equal registers; index it."""

    __slots__ = ("_base", "_bus", "_description")

    def __init__(self, bus: RegisterBus, base: int, description: Description[W]) -> None:
        self._bus = bus
        self._base = base
        self._description = description

    def __len__(self) -> int:
        return self._description.count

    def __getitem__(self, index: int) -> Register[W]:
        description = self._description
        if not 0 <= index < description.count:
            raise IndexError(f"{description.name} has {description.count} entries; got {index}")
        return Register(self._bus, self._base + index * description.stride, description, index)


class _Declared(Generic[W]):
    """Shared by single registers and arrays: the declaration inside a block's class."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._described = described
        self.description: Description[W]

    def __set_name__(self, owner: type[Block], name: str) -> None:
        scaled = dict(self._described)
        scaled["offset"] *= owner.UNIT
        scaled["stride"] *= owner.UNIT
        self.description = Description(name=name, **scaled)


class SingleField(_Declared[W]):
    @overload
    def __get__(self, block: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, block: Block, owner: Any = None) -> Register[W]: ...
    def __get__(self, block: Block | None, owner: Any = None) -> Self | Register[W]:
        if block is None:
            return self
        return Register(block.bus, block.address(self.description), self.description, 0)


class ArrayField(_Declared[W]):
    @overload
    def __get__(self, block: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, block: Block, owner: Any = None) -> Array[W]: ...
    def __get__(self, block: Block | None, owner: Any = None) -> Self | Array[W]:
        if block is None:
            return self
        return Array(block.bus, block.address(self.description), self.description)


@overload
def at(
    offset: int,
    kind: type[W],
    doc: str = "",
    *,
    access: Access = "rw",
    reset: int = 0,
    segment: int = 0,
) -> SingleField[W]: ...
@overload
def at(
    offset: int,
    kind: type[W],
    doc: str = "",
    *,
    access: Access = "rw",
    reset: int = 0,
    segment: int = 0,
    count: int,
    stride: int,
) -> ArrayField[W]: ...
def at(
    offset: int,
    kind: type[Word],
    doc: str = "",
    *,
    access: Access = "rw",
    reset: int = 0,
    segment: int = 0,
    count: int = 1,
    stride: int = 0,
) -> Any:
    """Declare the register at `offset`, or `count` of them `stride` apart, in the block's unit."""
    described = {
        "offset": offset,
        "kind": kind,
        "access": access,
        "reset": int(kind(reset)),
        "count": count,
        "stride": stride,
        "segment": segment,
        "doc": doc,
    }
    return ArrayField[Any](described) if stride else SingleField[Any](described)


class Block:
    """Registers of one kind of block. An instance is the block at its base, on a bus.

    base  byte offset on the bus, or one per segment
    """

    UNIT: ClassVar[int] = 1
    SIZE: ClassVar[int | None] = None
    SOURCE: ClassVar[str] = ""
    VERIFIED: ClassVar[Verified] = "document"
    REGISTERS: ClassVar[dict[str, Description[Any]]] = {}

    def __init_subclass__(cls) -> None:
        found = dict(cls.REGISTERS)
        for name, value in vars(cls).items():
            if isinstance(value, _Declared):
                found[name] = cast("_Declared[Any]", value).description
        taken: dict[tuple[int, int], str] = {}
        for name, register in found.items():
            width = register.kind.WIDTH // 8
            if register.kind.WIDTH not in (32, 64):
                raise DescriptionError(f"{cls.__name__}.{name} is {register.kind.WIDTH} bits wide")
            if register.count > 1 and register.stride < width:
                raise DescriptionError(f"{cls.__name__}.{name}: its entries overlap")
            for index in range(register.count):
                first = register.offset + index * register.stride
                if first % 4:
                    raise DescriptionError(f"{cls.__name__}.{name} is not 4-byte aligned")
                if cls.SIZE is not None and first + width > cls.SIZE:
                    raise DescriptionError(f"{cls.__name__}.{name} lies past {cls.SIZE:#x}")
                for offset in range(first, first + width, 4):
                    other = taken.setdefault((register.segment, offset), name)
                    if other != name:
                        raise DescriptionError(f"{cls.__name__}.{name} overlaps {other}")
        type.__setattr__(cls, "REGISTERS", found)

    def __init__(self, bus: RegisterBus, base: int | Sequence[int] = 0) -> None:
        self.bus = bus
        self._bases = (base,) if isinstance(base, int) else tuple(base)

    def address(self, description: Description[Any]) -> int:
        """Where a register lies on this block's bus, in bytes."""
        return self._bases[description.segment] + description.offset
