"""From a relocatable code object to bytes that run wherever they are put: no linker.

Allocated sections are laid out one after the other, the three relocations that occur are applied
(all of them differences, so the image has no base), and the entry's kernel descriptor is read. A
program that wants more than a pointer to its arguments is refused: our launches give no more.

The object may come from a cache on disk, so nothing in it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.errors import KernelError
from exosuit.silicon.amd.code import (
    CODE_ALIGNMENT,
    FIRST_RESERVED_SECTION,
    KERNARG_WAVE32,
    MACHINE_AMDGPU,
    MACHINES,
    MAGIC,
    OS_ABI_HSA,
    PREFETCH_BYTES,
    RELOCATABLE,
    SECTION_ALLOCATED,
    UNDEFINED_SECTION,
    ElfHeader,
    KernelDescriptor,
    Relocation,
    RelocationEntry,
    Section,
    SectionType,
    Symbol,
)
from exosuit.units import round_up

_LARGEST = 64 << 20
"""No image of ours has a thousandth of that; a corrupt size must not take all memory."""


@dataclass(frozen=True)
class Image:
    """A program ready to be copied to a multiple of CODE_ALIGNMENT in the card's memory.

    bytes         code and constants, with readable bytes after the last instruction
    entry_offset  of the first instruction, a multiple of CODE_ALIGNMENT
    descriptor    what a launch must program
    """

    bytes: bytes
    entry_offset: int
    descriptor: KernelDescriptor


def load(code: bytes, entry: str, target: str | None = None) -> Image:
    """The image of kernel `entry` of the object `code`.

    target  the chip that it is to run on, where the caller knows

    Raises KernelError for what is no such object, is for another chip, lacks a symbol, or holds a
    relocation or property that is not served.
    """
    return _Object(code, entry, target).image()


class _Object:
    """An object while it is laid out."""

    def __init__(self, code: bytes, entry: str, target: str | None) -> None:
        self._code = code
        self._entry = entry
        if len(code) < ElfHeader.SIZE or code[: len(MAGIC)] != MAGIC:
            raise self._wrong("it is no 64-bit ELF file")
        header = ElfHeader(code)
        if header.machine != MACHINE_AMDGPU or header.os_abi != OS_ABI_HSA:
            raise self._wrong(f"it is for machine {header.machine}, not for an AMD card")
        if header.type != RELOCATABLE:
            raise self._wrong(f"it is of type {header.type}, not a relocatable object")
        built = MACHINES.get(header.flags & 0xFF, f"machine {header.flags & 0xFF:#x}")
        if target is not None and built != target:
            raise self._wrong(f"it is for {built}, and this card is {target}")
        self._sections = [
            Section(self._cut(header.section_headers + Section.SIZE * index, Section.SIZE))
            for index in range(header.section_count)
        ]
        self._places: dict[int, int] = {}
        self._image = bytearray()

    def image(self) -> Image:
        for index, section in enumerate(self._sections):
            self._place(index, section)
        end = round_up(len(self._image), 4) + PREFETCH_BYTES
        self._image += bytes(end - len(self._image))
        for section in self._sections:
            if section.type == SectionType.RELA and section.info in self._places:
                self._relocate(section)
        at = self._find(f"{self._entry}.kd")
        if at + KernelDescriptor.SIZE > len(self._image):
            raise self._wrong("its descriptor lies past its end")
        descriptor = KernelDescriptor(bytes(self._image[at : at + KernelDescriptor.SIZE]))
        if descriptor.properties != KERNARG_WAVE32:
            raise self._wrong(
                f"it expects {descriptor.properties.explain() or 'nothing'}, where launches give"
                f" {KERNARG_WAVE32.explain()}"
            )
        entry = at + descriptor.entry_offset
        if not 0 <= entry < len(self._image) or entry % CODE_ALIGNMENT:
            raise self._wrong(f"its code begins at {entry:#x}")
        return Image(bytes(self._image), entry, descriptor)

    def _place(self, index: int, section: Section) -> None:
        """Append an allocated section to the image; notes are for other loaders."""
        if not section.flags & SECTION_ALLOCATED or section.type == SectionType.NOTE:
            return
        alignment = max(section.alignment, 1)
        if alignment & (alignment - 1) or alignment > CODE_ALIGNMENT:
            raise self._wrong(f"a section wants an alignment of {section.alignment}")
        start = round_up(len(self._image), alignment)
        if start + section.size > _LARGEST:
            raise self._wrong(f"a section has {section.size} bytes")
        self._image += bytes(start - len(self._image))
        if section.type == SectionType.NOBITS:
            self._image += bytes(section.size)
        else:
            self._image += self._cut(section.offset, section.size)
        self._places[index] = start

    def _relocate(self, section: Section) -> None:
        if section.link >= len(self._sections):
            raise self._wrong("a table of relocations has no symbols")
        place = self._places[section.info]
        room = self._sections[section.info].size
        entries = self._cut(section.offset, section.size)
        for start in range(0, len(entries) - RelocationEntry.SIZE + 1, RelocationEntry.SIZE):
            entry = RelocationEntry(entries, start)
            width = 8 if entry.type == Relocation.REL64 else 4
            if entry.offset + width > room:
                raise self._wrong("a relocation lies outside its section")
            at = place + entry.offset
            value = self._symbol(section.link, entry.symbol) + entry.addend - at
            match entry.type:
                case Relocation.REL64 | Relocation.REL32_LO:
                    number = value
                case Relocation.REL32_HI:
                    number = value >> 32
                case other:
                    raise self._wrong(f"it holds relocations of type {other}")
            number &= (1 << 8 * width) - 1
            self._image[at : at + width] = number.to_bytes(width, "little")

    def _symbol(self, table: int, index: int) -> int:
        """Place of a symbol in the image."""
        section = self._sections[table]
        if Symbol.SIZE * (index + 1) > section.size:
            raise self._wrong(f"it has no symbol {index}")
        symbol = Symbol(self._cut(section.offset + Symbol.SIZE * index, Symbol.SIZE))
        if symbol.section == UNDEFINED_SECTION:
            raise self._wrong(f"the symbol {self._name(section, symbol)!r} is not defined in it")
        if symbol.section >= FIRST_RESERVED_SECTION or symbol.section not in self._places:
            raise self._wrong(f"the symbol {self._name(section, symbol)!r} has no place")
        return self._places[symbol.section] + symbol.value

    def _find(self, name: str) -> int:
        for index, section in enumerate(self._sections):
            if section.type != SectionType.SYMTAB:
                continue
            for number in range(section.size // Symbol.SIZE):
                symbol = Symbol(self._cut(section.offset + Symbol.SIZE * number, Symbol.SIZE))
                if self._name(section, symbol) == name:
                    return self._symbol(index, number)
        raise self._wrong(f"it has no symbol {name!r}")

    def _name(self, table: Section, symbol: Symbol) -> str:
        if table.link >= len(self._sections):
            raise self._wrong("its symbols have no names")
        strings = self._sections[table.link]
        names = self._cut(strings.offset, strings.size)
        end = names.find(b"\0", symbol.name)
        return names[symbol.name : max(end, symbol.name)].decode("utf-8", "replace")

    def _cut(self, offset: int, size: int) -> bytes:
        if offset + size > len(self._code):
            raise self._wrong("it is cut off")
        return self._code[offset : offset + size]

    def _wrong(self, reason: str) -> KernelError:
        return KernelError(
            f"the program {self._entry!r} cannot be loaded onto the card: {reason}",
            cause="its code object was made by another compiler or for another chip, or the cache"
            " of programs is damaged",
            next="remove the cache of programs (exosuit doctor --settings says where) and try"
            " again",
            entry=self._entry,
            reason=reason,
        )
