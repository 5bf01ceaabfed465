"""`Packet`: a structure with an opcode, and streams that are split into them.

A *family* (PM4, SDMA, methods of a pushbuffer) subclasses `Packet` once and says how a header is
measured and stamped; each packet of the family subclasses that with its `OPCODE`. Reading never
fails: what is not known, or cut off, comes out as an `UnknownPacket` in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from exosuit.datasheet.structs import Buffer, Struct
from exosuit.datasheet.words import DescriptionError


@dataclass(frozen=True)
class UnknownPacket:
    """Bytes of a stream that no description explains; `opcode` is None where they are cut off."""

    opcode: int | None
    data: bytes

    def __repr__(self) -> str:
        opcode = "truncated" if self.opcode is None else f"opcode {self.opcode:#x}"
        shown = self.data[:64].hex(" ", 4)
        return f"UnknownPacket({opcode}: {shown}{' ...' if len(self.data) > 64 else ''})"


class Packet(Struct):
    """One packet. `SIZE` is the fixed part; what follows it in a longer packet is `rest`."""

    OPCODE: ClassVar[int | None] = None
    FAMILY: ClassVar[dict[int, type[Packet]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Packet in cls.__bases__:
            type.__setattr__(cls, "FAMILY", {})
        if cls.OPCODE is None or "OPCODE" not in vars(cls):
            return
        known = cls.FAMILY.setdefault(cls.OPCODE, cls)
        if known is not cls:
            raise DescriptionError(
                f"{cls.__name__} and {known.__name__} share opcode {cls.OPCODE:#x}"
            )

    @classmethod
    def measure(cls, stream: memoryview) -> tuple[int, int] | None:
        """Opcode and whole size in bytes of the packet that begins here; None if too short."""
        raise NotImplementedError(f"{cls.__name__} does not say how its headers are measured")

    def stamp(self, size: int) -> None:
        """Fill the header of a packet that takes `size` bytes."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to fill its header")

    @classmethod
    def build(cls, rest: bytes = b"", /, **slots: Any) -> Self:
        """A packet with its header stamped, these slots filled and `rest` after them."""
        made = cls(bytearray(cls.SIZE + len(rest)))
        made.memory[cls.SIZE :] = rest
        made.stamp(len(made.memory))
        made.assign(**slots)
        return made

    @property
    def rest(self) -> memoryview:
        """What follows the fixed part."""
        return self.memory[self.SIZE :]

    def __bytes__(self) -> bytes:
        return bytes(self.memory)

    @classmethod
    def parse(cls, stream: Buffer) -> Iterator[Self | UnknownPacket]:
        """Split `stream` into packets of this family."""
        view = memoryview(stream).cast("B")
        while view:
            measured = cls.measure(view)
            if measured is None or not 0 < measured[1] <= len(view):
                yield UnknownPacket(None, bytes(view))
                return
            opcode, size = measured
            kind = cls.FAMILY.get(opcode)
            if kind is None or not issubclass(kind, cls) or size < kind.SIZE:
                yield UnknownPacket(opcode, bytes(view[:size]))
            else:
                yield kind(view[:size])
            view = view[size:]
