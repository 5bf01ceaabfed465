"""The types in an opcode: `.s32`, `.b16`, `.f16x2`, `.pred`, and their values as LLVM sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.state import WARP
from exosuit.softcard.nvidia.ptx.warp import FLOAT, INTEGER, Warp
from exosuit.softcard.translation.ir import Lanes

_TYPE = re.compile(r"(pred|bf|[busf])(\d*)(?:x(\d))?")


@dataclass(frozen=True)
class Type:
    """letter "s", "u", "b", "f", "bf" or "pred"; `bits` of each of `pack` elements."""

    letter: str
    bits: int
    pack: int = 1

    @property
    def is_float(self) -> bool:
        return self.letter in ("f", "bf")

    @property
    def signed(self) -> bool:
        return self.letter == "s"

    @property
    def register_bits(self) -> int:
        return self.bits * self.pack


def type_of(text: str) -> Type:
    match = _TYPE.fullmatch(text)
    if match is None or (match[1] != "pred" and not match[2]):
        raise PtxFault("syntax", f"{text} is no type")
    return Type(match[1], int(match[2] or 1), int(match[3] or 1))


def is_type(text: str) -> bool:
    match = _TYPE.fullmatch(text)
    return match is not None and bool(match[2] or match[1] == "pred")


def operand(warp: Warp, text: str, kind: Type) -> Lanes:
    """An operand of this type; elements of a pair lie next to each other."""
    if kind.letter == "pred":
        if text.lstrip("!")[0] != "%":
            return warp.ir.constant("i1", int(text), WARP)
        return warp.predicate(text)
    value = warp.integer(text, kind.register_bits)
    if kind.letter == "f":
        return value.view(FLOAT[kind.bits], WARP * kind.pack)
    return value.view(INTEGER[kind.bits], WARP * kind.pack)


def result(warp: Warp, name: str, value: Lanes, kind: Type) -> None:
    """Store a value of this type."""
    if kind.pack > 1:
        value = value.view(INTEGER[kind.register_bits], WARP)
    warp.write(name, value)


def unsupported(warp: Warp) -> PtxFault:
    made = warp.instruction
    return PtxFault("instruction", f"line {made.line}: {made} is not translated")
