"""Stand-ins for cubins: ELF files as ptxas makes them, whose code is PTX text.

NVIDIA does not document its machine code, so software cards run what ptxas is given instead of what
it makes. All around the code is as in a cubin: sections, symbols, attributes, bank 0, so that a
driver loads it and launches it without knowing. What only ptxas knows (registers, barriers) is
something that every launch can have.

Sources: cubins of ptxas 13.0 for sm_80, sm_90 and sm_120, as `readelf` and `cuobjdump -elf` show
them; the tests compare with them field by field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from exosuit.silicon.nvidia.bank import bank0
from exosuit.silicon.nvidia.cubin import (
    ABI_13,
    BARRIERS,
    CODE_ALIGNMENT,
    FRAME_SIZE,
    GROUP_LANES,
    MACHINE_CUDA,
    PARAMETER,
    PARAMETER_BANK,
    REGISTERS,
    SHARED_RESERVED,
    STACK_SIZE,
)
from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.parse import Entry, parse
from exosuit.units import round_up

STAND_IN_REGISTERS = 64
"""Of one lane: as many as the largest group of 1,024 lanes leaves each."""
STAND_IN_BARRIERS = 1
MARK = b"//PTX in place of machine code, of kernel "
"""How the code of a stand-in begins; a line of PTX."""
MOST_CODE = 16 << 20

_ABI_VERSION = 8
_API_VERSION = 130
_EXECUTABLE = 2
_SYMTAB, _STRTAB, _PROGBITS, _NOBITS, _INFO = 2, 3, 1, 8, 0x7000_0000
_WRITE, _ALLOC, _EXECUTE, _INFO_LINK = 1, 2, 4, 0x40
_SECTION_SYMBOL, _KERNEL_SYMBOL = 0x03, 0x12  # local section; global function
_ENTRY_FLAG = 0x10
_API, _BANK_BYTES, _MOST_REGISTERS, _RETURN_STACK, _RESOURCES = 0x37, 0x19, 0x1B, 0x1E, 0x4A
_ANY_BANK = 0x1F


def stand_in(ptx: bytes, entry: str, target: str) -> bytes:
    """An ELF file for `target` ("sm_86") with one kernel of a module of PTX.

    Raises PtxFault for text that cannot be read, or has no such kernel.
    """
    text = ptx.rstrip(b"\0")
    found = parse(text.decode()).get(entry)
    if found is None:
        raise PtxFault("syntax", f"the module has no kernel {entry}")
    sm = int(target.removeprefix("sm_").rstrip("af"))
    return _write(found, sm, MARK + entry.encode() + b"\n" + text + b"\0")


def find_program(code: bytes) -> tuple[str, str]:
    """PTX text and the name of its kernel, from what stands where a program begins.

    Raises PtxFault for code that is no stand-in.
    """
    if not code.startswith(MARK):
        raise PtxFault("instruction", "machine code, which nobody can run here, or none at all")
    name, _, text = code[len(MARK) :].partition(b"\n")
    try:
        return text.partition(b"\0")[0].decode(), name.decode()
    except UnicodeDecodeError as error:
        raise PtxFault("syntax", f"the text is damaged ({error})") from error


@dataclass
class _Section:
    name: str
    kind: int
    data: bytes = b""
    flags: int = 0
    align: int = 1
    link: int = 0
    info: int = 0
    entry_bytes: int = 0
    size: int = -1
    offset: int = field(default=0)


def _write(kernel: Entry, sm: int, code: bytes) -> bytes:
    name = kernel.name
    code = code.ljust(round_up(len(code), CODE_ALIGNMENT), b"\0")
    shared = kernel.shared_bytes
    if sm >= 90 and shared:
        shared += SHARED_RESERVED
    text, constants, symbols = f".text.{name}", f".nv.constant0.{name}", ".symtab"
    sections = [_Section("", 0), _Section(".shstrtab", _STRTAB), _Section(".strtab", _STRTAB)]
    sections.append(_Section(symbols, _SYMTAB, align=8, link=2, entry_bytes=24))
    sections.append(_Section(".nv.info", _INFO, align=4, link=3))
    sections.append(_Section(f".nv.info.{name}", _INFO, flags=_INFO_LINK, align=4, link=3))
    bank = bytes(bank0(sm).ARGUMENTS + kernel.parameter_bytes)
    banks = _Section(constants, _PROGBITS, bank, _ALLOC | _INFO_LINK, 4)
    body = _Section(text, _PROGBITS, code, _ALLOC | _EXECUTE, CODE_ALIGNMENT, link=3)
    sections += [banks, body] if sm < 90 else [body, banks]
    if shared:
        flags = _ALLOC | _WRITE | _INFO_LINK
        sections.append(_Section(f".nv.shared.{name}", _NOBITS, flags=flags, align=16, size=shared))
    number = {section.name: k for k, section in enumerate(sections)}
    for section in sections:
        if section.flags & _INFO_LINK:
            section.info = number[text]
    table, names, kernel_symbol = _symbols(name, len(code), sections, number)
    sections[number[symbols]].data, sections[number[".strtab"]].data = table, names
    sections[number[symbols]].info = kernel_symbol
    body.info = kernel_symbol if sm >= 90 else STAND_IN_REGISTERS << 24 | kernel_symbol
    sections[number[".nv.info"]].data = b"".join(
        _record(attribute, struct.pack("<II", kernel_symbol, value))
        for attribute, value in (
            (REGISTERS, STAND_IN_REGISTERS),
            (FRAME_SIZE, kernel.local_bytes),
            (STACK_SIZE, kernel.local_bytes),
        )
    )
    # The second symbol is that of the section with bank 0: see `_symbols`.
    sections[number[f".nv.info.{name}"]].data = _attributes(kernel, sm, 2)
    return _file(sections, sm)


def _symbols(
    name: str, code_bytes: int, sections: list[_Section], number: dict[str, int]
) -> tuple[bytes, bytes, int]:
    """The symbol table, its names, and the number of the kernel's symbol."""
    order = (".text", ".nv.constant0", ".nv.shared")
    local = sorted(
        (s for s in sections if s.flags & _ALLOC),
        key=lambda section: [section.name.startswith(name) for name in order],
        reverse=True,
    )
    names = bytearray(b"\0")
    rows = [bytes(24)]
    for section in local:
        rows.append(
            struct.pack("<IBBHQQ", len(names), _SECTION_SYMBOL, 0, number[section.name], 0, 0)
        )
        names += section.name.encode() + b"\0"
    at, place = len(names), number[f".text.{name}"]
    rows.append(struct.pack("<IBBHQQ", at, _KERNEL_SYMBOL, _ENTRY_FLAG, place, 0, code_bytes))
    names += name.encode() + b"\0"
    return b"".join(rows), bytes(names), len(rows) - 1


def _attributes(kernel: Entry, sm: int, bank_symbol: int) -> bytes:
    """What `.nv.info.NAME` says."""
    offset, size = bank0(sm).ARGUMENTS, kernel.parameter_bytes
    made = [
        _record(_API, struct.pack("<I", _API_VERSION)),
        _record(PARAMETER_BANK, struct.pack("<IHH", bank_symbol, offset, size)),
        _half(_BANK_BYTES, size),
    ]
    places = [*kernel.parameters.values(), size]
    for ordinal, place in reversed(tuple(enumerate(places[:-1]))):
        packed = (places[ordinal + 1] - place) << 18 | _ANY_BANK << 12
        made.append(_record(PARAMETER, struct.pack("<IHHI", 0, ordinal, place, packed)))
    made.append(_half(_MOST_REGISTERS, 0xFF))
    made.append(_byte(BARRIERS, STAND_IN_BARRIERS))
    if sm >= 100:
        made.append(_byte(_RESOURCES, 0))
    if kernel.group_lanes is not None:
        made.append(_record(GROUP_LANES, struct.pack("<III", *kernel.group_lanes)))
    made.append(_record(_RETURN_STACK, struct.pack("<I", 0)))
    return b"".join(made)


def _record(attribute: int, value: bytes) -> bytes:
    return struct.pack("<BBH", 4, attribute, len(value)) + value


def _half(attribute: int, value: int) -> bytes:
    return struct.pack("<BBH", 3, attribute, value)


def _byte(attribute: int, value: int) -> bytes:
    return struct.pack("<BBH", 2, attribute, value)


def _file(sections: list[_Section], sm: int) -> bytes:
    names = bytearray()
    places: list[int] = []
    for section in sections:
        places.append(len(names))
        names += section.name.encode() + b"\0"
    sections[1].data = bytes(names)
    made = bytearray(64)
    for section in sections[1:]:
        made += bytes(-len(made) % section.align)
        section.offset = len(made)
        made += section.data
    made += bytes(-len(made) % 8)
    table = len(made)
    for place, section in zip(places, sections, strict=True):
        size = len(section.data) if section.size < 0 else section.size
        align = section.align if section.kind else 0
        made += struct.pack(
            "<IIQQQQIIQQ", place, section.kind, section.flags, 0, section.offset, size,
            section.link, section.info, align, section.entry_bytes,
        )  # fmt: skip
    ident = b"\x7fELF\x02\x01\x01" + bytes([ABI_13, _ABI_VERSION]) + bytes(7)
    flags = 0x600_0000 | sm << 8 | (4 if sm < 100 else 2)
    made[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, _EXECUTABLE, MACHINE_CUDA, 1, 0, 0, table, flags, 64, 56, 0,
        64, len(sections), 1,
    )  # fmt: skip
    return bytes(made)
