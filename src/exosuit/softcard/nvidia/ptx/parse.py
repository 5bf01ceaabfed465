"""PTX text as entries: parameters, shared memory, registers and blocks of instructions.

Reads what compilers write for one kernel: no functions, no textures, no debug sections. Anything
else is a `PtxFault` of kind "syntax", so that nothing is left out unnoticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.units import round_up


@dataclass(frozen=True)
class Instruction:
    """One statement.

    guard     predicate that switches lanes on, or ""; `!` in front of it inverts
    parts     the opcode, split at its dots
    operands  registers, numbers, symbols, `[address]`, `{vectors}`, as they are written
    line      of the text, from 1
    """

    guard: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    line: int

    @property
    def name(self) -> str:
        return self.parts[0]

    def has(self, modifier: str) -> bool:
        return modifier in self.parts

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{'.'.join(self.parts)} {', '.join(self.operands)}"


@dataclass
class Block:
    """Instructions that run one after the other; only the last may branch.

    follows  the block behind it, where there is one
    """

    number: int
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    follows: int | None = None


@dataclass
class Entry:
    """One kernel.

    parameters    offset of each parameter in the argument block
    symbols       offset of each variable in shared or local memory
    registers     bits of each register, by its name or, of many, the prefix of their names
                  ("%rd"); 1 for predicates
    group_lanes   .reqntid, or None
    """

    name: str
    parameters: dict[str, int] = field(default_factory=dict[str, int])
    parameter_bytes: int = 0
    symbols: dict[str, int] = field(default_factory=dict[str, int])
    shared_bytes: int = 0
    local_bytes: int = 0
    registers: dict[str, int] = field(default_factory=dict[str, int])
    group_lanes: tuple[int, int, int] | None = None
    blocks: list[Block] = field(default_factory=list[Block])
    labels: dict[str, int] = field(default_factory=dict[str, int])

    @cached_property
    def has_barrier(self) -> bool:
        """Whether the warps of a group wait for each other somewhere."""
        made = (x for block in self.blocks for x in block.instructions)
        return any(x.name in ("bar", "barrier") and not x.has("warp") for x in made)

    def bits(self, register: str) -> int:
        """Width of a register; 1 for a predicate."""
        if register in self.registers:
            return self.registers[register]
        found = _REGISTER.fullmatch(register)
        if found is None or found[1] not in self.registers:
            raise PtxFault("syntax", f"{register} is not declared")
        return self.registers[found[1]]


_REGISTER = re.compile(r"(%\w*?)\d+")
_ENTRY = re.compile(r"\.entry\s+([\w$.]+)\s*\(([^)]*)\)([^{]*)\{")
_PARAMETER = re.compile(r"\.param\s+\.[a-z](\d+)[^,\n]*?([\w$]+)\s*(?:,|$)", re.MULTILINE)
_VARIABLE = re.compile(
    r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.[a-z](\d+)\s+([\w$.]+)(?:\[(\d+)\])?"
)
_REGISTERS = re.compile(r"\.reg\s+\.([a-z]+)(\d*)\s+(%\w+?)(?:<\d+>)?")
_STATEMENT = re.compile(r"(?:@(!?%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_LABEL = re.compile(r"([\w$]+):\s*")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_IGNORED = frozenset({".loc", ".pragma", ".file", ".section"})
_ENDS = ("bra", "ret", "exit", "bar", "barrier")


def parse(text: str) -> dict[str, Entry]:
    """The kernels of a module by name. Variables outside of kernels must be in shared memory."""
    text = _without_comments(text)
    outside = Entry("")
    found: dict[str, Entry] = {}
    start = 0
    for match in _ENTRY.finditer(text):
        for variable in _VARIABLE.finditer(text, start, match.start()):
            _declare(outside, variable)
        end = _end_of(text, match.end())
        found[match[1]] = _entry(match, text, end, outside)
        start = end
    if not found:
        raise PtxFault("syntax", "the text has no .entry")
    return found


def _without_comments(text: str) -> str:
    """Lines stay where they are."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def _end_of(text: str, start: int) -> int:
    """Where the body that begins at `start` ends: at the brace that matches."""
    depth = 1
    for match in re.compile("[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    raise PtxFault("syntax", "a body without an end")


def _declare(entry: Entry, match: re.Match[str]) -> None:
    space, align, bits, name, count = match.groups()
    size = int(bits) // 8 * int(count or 1)
    step = int(align or int(bits) // 8)
    if space == "shared":
        entry.symbols[name] = round_up(entry.shared_bytes, step)
        entry.shared_bytes = entry.symbols[name] + size
    else:
        entry.symbols[name] = round_up(entry.local_bytes, step)
        entry.local_bytes = entry.symbols[name] + size


def _entry(match: re.Match[str], text: str, end: int, outside: Entry) -> Entry:
    entry = Entry(match[1], symbols=dict(outside.symbols), shared_bytes=outside.shared_bytes)
    for bits, name in _PARAMETER.findall(match[2]):
        size = int(bits) // 8
        entry.parameters[name] = round_up(entry.parameter_bytes, size)
        entry.parameter_bytes = entry.parameters[name] + size
    if len(entry.parameters) != match[2].count(".param"):
        raise PtxFault("syntax", f"{entry.name}: a parameter that is not a number or a pointer")
    lanes = re.search(r"\.reqntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", match[3])
    if lanes is not None:
        x, y, z = (int(n or 1) for n in lanes.groups())
        entry.group_lanes = x, y, z
    _body(entry, text, match.end(), end)
    return entry


def _body(entry: Entry, text: str, start: int, end: int) -> None:
    blocks = entry.blocks
    blocks.append(Block(0))

    def begin() -> Block:
        if blocks[-1].instructions:
            blocks.append(Block(len(blocks)))
        return blocks[-1]

    line = text.count("\n", 0, start) + 1
    for piece in text[start:end].split(";"):
        statement = piece.lstrip()
        here = line + piece.count("\n", 0, len(piece) - len(statement))
        line += piece.count("\n")
        statement = statement.rstrip()
        while (label := _LABEL.match(statement)) is not None:
            entry.labels[label[1]] = begin().number
            here += label[0].count("\n")
            statement = statement[label.end() :]
        if not statement or statement.split()[0] in _IGNORED:
            continue
        if statement.startswith("."):
            _directive(entry, statement, here)
            continue
        made = _instruction(statement, here)
        blocks[-1].instructions.append(made)
        if made.name in _ENDS and not made.has("warp"):
            begin()
    if not blocks[-1].instructions and len(blocks) - 1 not in entry.labels.values():
        blocks.pop()
    for block in blocks[:-1]:
        block.follows = block.number + 1


def _directive(entry: Entry, statement: str, line: int) -> None:
    if (registers := _REGISTERS.fullmatch(statement)) is not None:
        kind, bits, prefix = registers.groups()
        entry.registers[prefix] = 1 if kind == "pred" else int(bits)
    elif (variable := _VARIABLE.fullmatch(statement)) is not None:
        _declare(entry, variable)
    else:
        raise PtxFault("syntax", f"line {line}: {' '.join(statement.split())}")


def _instruction(statement: str, line: int) -> Instruction:
    match = _STATEMENT.fullmatch(statement)
    if match is None:
        raise PtxFault("syntax", f"line {line}: {' '.join(statement.split())}")
    guard, opcode, rest = match.groups()
    operands = tuple(" ".join(x.split()) for x in _OPERAND.findall(rest))
    return Instruction(guard or "", tuple(opcode.rstrip(".").split(".")), operands, line)
