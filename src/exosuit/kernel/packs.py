"""Packs: programs as machine code, made once where ptxas is and used where it is not.

A pack holds the programs of one NVIDIA target. It is a line of JSON (what it was made from) and the
programs behind it, compressed together since they resemble each other. A pack of another version of
the kernel language or the ops is no pack: nothing of it is ever found.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import struct
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from exosuit.errors import KernelError
from exosuit.kernel.assembler import Assembler
from exosuit.kernel.compile import ProgramCache, compile_kernel, sources_hash
from exosuit.kernel.decorator import Kernel
from exosuit.kernel.target import Target
from exosuit.program import Access, Parameter, Program

FOLDER = Path(__file__).parent / "packed"
"""Where the wheel has its packs."""
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
_MAGIC = b"exosuit pack 1\n"
_LENGTH = struct.Struct("<I")
_LARGEST = 256 << 20


@dataclass(frozen=True)
class Wanted:
    """A program that a pack is to have."""

    kernel: Kernel
    static: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(kernel: Kernel, static: dict[str, Any]) -> Wanted:
        return Wanted(kernel, tuple(sorted(static.items())))

    @property
    def key(self) -> str:
        """What tells it from others of the same target and version."""
        statics = ", ".join(f"{name}={value!r}" for name, value in self.static)
        text = f"{self.kernel.__module__} {self.kernel.name} {statics}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_pack(
    wanted: Iterable[Wanted],
    target: Target,
    assembler: Assembler,
    cache: ProgramCache | None = None,
) -> bytes:
    """The pack of these programs. CompileFailed for what ptxas refuses."""
    entries: dict[str, Any] = {}
    codes: list[bytes] = []
    made: dict[str, tuple[Program, Future[bytes]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as assembling:
        for each in wanted:
            if each.key not in made:
                program = compile_kernel(each.kernel, target, cache, **dict(each.static))
                made[each.key] = program, assembling.submit(assembler.cubin, program)
    for key, (program, assembled) in made.items():
        code = assembled.result()
        entries[key] = {
            "name": program.name,
            "entry": program.entry,
            "parameters": [(p.name, p.dtype, p.access.value) for p in program.parameters],
            "group_size": program.group_size,
            "shared_bytes": program.shared_bytes,
            "start": sum(map(len, codes)),
            "size": len(code),
        }
        codes.append(code)
    header = {
        "target": target.name,
        "sources": sources_hash(),
        "ptxas": assembler.version,
        "programs": entries,
    }
    told = json.dumps(header, sort_keys=True).encode()
    body = _LENGTH.pack(len(told)) + told + b"".join(codes)
    packed = lzma.compress(body, preset=9)
    return _MAGIC + hashlib.sha256(packed).digest() + packed


class Pack:
    """A pack that was read."""

    def __init__(self, content: bytes) -> None:
        """KernelError for what is no pack or is damaged."""
        start = len(_MAGIC) + 32
        if content[: len(_MAGIC)] != _MAGIC:
            raise _damaged("it does not begin like one")
        if hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
            raise _damaged("its bytes are not those that were written")
        body = lzma.LZMADecompressor().decompress(content[start:], _LARGEST)
        (length,) = _LENGTH.unpack_from(body)
        header = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        self.target: str = header["target"]
        self.sources: str = header["sources"]
        self.ptxas: str = header["ptxas"]
        self._programs: dict[str, dict[str, Any]] = header["programs"]
        self._codes = body[_LENGTH.size + length :]

    def __len__(self) -> int:
        return len(self._programs)

    @property
    def is_current(self) -> bool:
        """Whether it was made from the kernels as they are."""
        return self.sources == sources_hash()

    def find(self, wanted: Wanted) -> Program | None:
        """The program, if the pack is current and has it."""
        entry = self._programs.get(wanted.key)
        return None if entry is None or not self.is_current else self._program(entry)

    def programs(self) -> list[Program]:
        return [self._program(entry) for entry in self._programs.values()]

    def _program(self, entry: dict[str, Any]) -> Program:
        return Program(
            name=entry["name"],
            target=self.target,
            entry=entry["entry"],
            code=self._codes[entry["start"] : entry["start"] + entry["size"]],
            parameters=tuple(
                Parameter(name, dtype, Access(access))
                for name, dtype, access in entry["parameters"]
            ),
            group_size=entry["group_size"],
            shared_bytes=entry["shared_bytes"],
        )


def _damaged(cause: str) -> KernelError:
    return KernelError(
        "a pack of programs cannot be read",
        cause=cause,
        next="pip install --force-reinstall exosuit",
    )


@cache
def installed_pack(target: str) -> Pack | None:
    """The pack that came with this installation, if it has one for the target and it is current."""
    file = FOLDER / f"{target}.pack"
    if not file.is_file():
        return None
    pack = Pack(file.read_bytes())
    return pack if pack.is_current else None


class PackedPrograms(ProgramCache):
    """A cache whose programs come from a pack where it has them: machine code, not PTX."""

    def __init__(self, folder: Path, pack: Pack) -> None:
        super().__init__(folder)
        self.pack = pack

    def packed(self, kernel: Kernel, static: dict[str, Any]) -> Program | None:
        return self.pack.find(Wanted.of(kernel, static))
