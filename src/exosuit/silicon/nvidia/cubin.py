"""Cubins: the ELF that ptxas makes, and what a launch must know of each kernel in it.

Sources: the ELF-64 object file format; names and layouts of sections and of the records in
`.nv.info` as `cuobjdump -elf` prints them beside their bytes (CUDA 12.9 and 13.0). Nothing in a
cubin is believed: it may come from a cache on disk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exosuit.errors import KernelError

MACHINE_CUDA = 190
CODE_ALIGNMENT = 128
ABI_12, ABI_13 = 0x33, 0x41
"""EI_OSABI of CUDA 12 (and earlier chips), and of CUDA 13."""
SHARED_RESERVED = 0x400
"""From sm_90 on the first bytes of shared memory are the system's, and counted in."""
R_CUDA_64 = 2
"""The one relocation that kernels of ours can need: 64 bits, symbol and addend."""

_MAGIC = b"\x7fELF\x02\x01"
_HEADER, _SECTION, _SYMBOL = (
    struct.Struct("<16sHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQIIQQ"),
    (struct.Struct("<IBBHQQ")),
)
_NOBITS, _SYMTAB, _RELA, _REL = 8, 2, 4, 9
_ENTRY_FLAG = 0x10

# Attributes of .nv.info, and how their values are stored.
_NONE, _BYTE, _HALF, _SIZED = 1, 2, 3, 4
PARAMETER_BANK, FRAME_SIZE, STACK_SIZE, PARAMETER = 0x0A, 0x11, 0x12, 0x17
REGISTERS, SYSTEM_CALLS, BARRIERS, GROUP_LANES = 0x2F, 0x46, 0x4C, 0x10
VIRTUAL_RESOURCES = 0x4A


@dataclass(frozen=True)
class Relocation:
    """Where in `section` the address of `symbol` plus `addend` belongs."""

    section: str
    offset: int
    kind: int
    symbol: str
    addend: int


@dataclass(frozen=True)
class CubinKernel:
    """One kernel.

    code            machine code, for a multiple of CODE_ALIGNMENT
    entry_offset    of the first instruction in it
    registers       of one lane
    shared_bytes    of a group as a launch must ask for them, without dynamic ones; from sm_90 on
                    with SHARED_RESERVED where there are any
    stack_bytes     of local memory that one lane needs
    barriers        of a group
    virtual_resources  from sm_100 on, what a QMD says of them
    constants       first image of constant bank 0: driver's words, then the arguments
    arguments       offset and size of the argument block in bank 0
    parameters      offset in the argument block and size of each
    relocations     of the code and its constant banks
    """

    name: str
    code: bytes
    entry_offset: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    barriers: int
    virtual_resources: int
    constants: int
    arguments: tuple[int, int]
    parameters: tuple[tuple[int, int], ...]
    relocations: tuple[Relocation, ...]


@dataclass(frozen=True)
class Cubin:
    """sm 80 for sm_80; kernels by name."""

    sm: int
    abi: int
    kernels: dict[str, CubinKernel]


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    data: bytes
    size: int
    link: int
    info: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int
    is_entry: bool


def read_cubin(data: bytes) -> Cubin:
    """Raises KernelError for what is no cubin, is damaged, or has kernels that call the system."""
    try:
        return _File(data).cubin()
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise _wrong(f"it is damaged ({error})") from error


def _wrong(cause: str) -> KernelError:
    return KernelError(
        "a cubin cannot be read", cause=cause, next="remove the cache of programs and try again"
    )


class _File:
    def __init__(self, data: bytes) -> None:
        if data[: len(_MAGIC)] != _MAGIC or len(data) < _HEADER.size:
            raise _wrong("it is no 64-bit ELF file")
        words: tuple[Any, ...] = _HEADER.unpack_from(data)
        ident, machine, table, flags = words[0], words[2], words[6], words[7]
        size, count = words[11:13]
        names: int = words[13]
        if machine != MACHINE_CUDA or size != _SECTION.size:
            raise _wrong(f"it is for machine {machine}, not for a CUDA card")
        self.abi = ident[7]
        if self.abi not in (ABI_12, ABI_13):
            raise _wrong(f"its ABI is {self.abi:#x}; known are {ABI_12:#x} and {ABI_13:#x}")
        self.sm = flags >> 8 & 0xFF if self.abi == ABI_13 else flags & 0xFF
        rows: list[tuple[int, ...]] = [
            _SECTION.unpack_from(data, table + k * _SECTION.size) for k in range(count)
        ]
        raw = [_bytes(data, row) for row in rows]
        self.sections = [
            _Section(_text(raw[names], row[0]), row[1], raw[k], row[5], row[6], row[7])
            for k, row in enumerate(rows)
        ]
        self.by_name = {section.name: section for section in self.sections}
        self.symbols = self._symbols()

    def _symbols(self) -> list[_Symbol]:
        for section in self.sections:
            if section.kind == _SYMTAB and section.name == ".symtab":
                names = self.sections[section.link].data
                return [
                    _Symbol(_text(names, name), index, value, bool(other & _ENTRY_FLAG))
                    for name, _, other, index, value, _ in _SYMBOL.iter_unpack(section.data)
                ]
        raise _wrong("it has no symbols")

    def cubin(self) -> Cubin:
        entries = [
            (number, symbol) for number, symbol in enumerate(self.symbols) if symbol.is_entry
        ]
        if not entries:
            raise _wrong("it has no kernel")
        kernels = {symbol.name: self._kernel(number, symbol) for number, symbol in entries}
        return Cubin(self.sm, self.abi, kernels)

    def _kernel(self, number: int, symbol: _Symbol) -> CubinKernel:
        name = symbol.name
        shared_by_all = dict(self._of_symbol(number))
        own = list(_attributes(self._data(f".nv.info.{name}")))
        found = {attribute: value for attribute, value in own}
        if found.get(SYSTEM_CALLS):
            raise _wrong(f"{name} calls the system (printf or malloc)")
        if PARAMETER_BANK in found:
            _, offset, size = struct.unpack("<IHH", found[PARAMETER_BANK])
        else:
            raise _wrong(f"{name} does not say where its arguments lie")
        parameters: list[tuple[int, int, int]] = []
        for attribute, value in own:
            if attribute == PARAMETER:
                _, ordinal, place, packed = struct.unpack("<IHHI", value)
                parameters.append((ordinal, place, packed >> 18))
        constants = self.by_name.get(f".nv.constant0.{name}")
        shared = self.by_name.get(f".nv.shared.{name}")
        if constants is None or constants.size != offset + size:
            raise _wrong(f"{name} has no bank 0 of its arguments' size")
        return CubinKernel(
            name=name,
            code=self._data(f".text.{name}"),
            entry_offset=symbol.value,
            registers=shared_by_all.get(REGISTERS, 0),
            shared_bytes=shared.size if shared is not None else 0,
            stack_bytes=max(shared_by_all.get(STACK_SIZE, 0), shared_by_all.get(FRAME_SIZE, 0)),
            barriers=int.from_bytes(found.get(BARRIERS, b""), "little"),
            virtual_resources=int.from_bytes(found.get(VIRTUAL_RESOURCES, b""), "little"),
            constants=constants.size,
            arguments=(offset, size),
            parameters=tuple((place, width) for _, place, width in sorted(parameters)),
            relocations=tuple(self._relocations(name)),
        )

    def _data(self, name: str) -> bytes:
        section = self.by_name.get(name)
        if section is None:
            raise _wrong(f"it has no section {name}")
        return section.data

    def _of_symbol(self, number: int) -> Iterator[tuple[int, int]]:
        """Records of the whole file that are about one symbol: attribute and number."""
        for attribute, value in _attributes(self._data(".nv.info")):
            if attribute in (REGISTERS, STACK_SIZE, FRAME_SIZE):
                symbol, size = struct.unpack("<II", value)
                if symbol == number:
                    yield attribute, size

    def _relocations(self, kernel: str) -> Iterator[Relocation]:
        for section in self.sections:
            if section.kind not in (_RELA, _REL):
                continue
            target = self.sections[section.info].name
            if not target.endswith(f".{kernel}") or target.startswith(".nv.info"):
                continue
            form = struct.Struct("<QQq" if section.kind == _RELA else "<QQ")
            for offset, info, *rest in form.iter_unpack(section.data):
                addend = int(rest[0]) if rest else 0
                name = self.symbols[int(info) >> 32].name
                yield Relocation(target, offset, info & 0xFFFF_FFFF, name, addend)


def _bytes(data: bytes, row: tuple[int, ...]) -> bytes:
    """A section's content; nothing for what has none in the file."""
    kind, offset, size = row[1], row[4], row[5]
    if kind in (0, _NOBITS):
        return b""
    if offset + size > len(data):
        raise _wrong("a section ends beyond the file")
    return data[offset : offset + size]


def _text(names: bytes, offset: int) -> str:
    return names[offset : names.index(0, offset)].decode()


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The records of an .nv.info section."""
    place = 0
    while place < len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, place)
        place += 4
        if form == _SIZED:
            if place + value > len(data):
                raise _wrong("a record ends beyond its section")
            yield attribute, data[place : place + value]
            place += value
        elif form in (_NONE, _BYTE, _HALF):
            yield attribute, value.to_bytes(2, "little") if form == _HALF else bytes([value & 0xFF])
        else:
            raise _wrong(f"a record of unknown form {form}")
