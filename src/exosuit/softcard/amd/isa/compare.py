"""Vector compares: one bit per lane into a scalar register, or into the mask of active lanes."""

from __future__ import annotations

import re

from exosuit.silicon.amd.isa.operands import EXEC
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.wave import Wave
from exosuit.softcard.translation.ir import WAVE, Lanes

_KINDS = {
    "f16": "half", "f32": "float", "f64": "double", "i16": "i16", "u16": "i16", "i32": "i32",
    "u32": "i32", "i64": "i64", "u64": "i64",
}  # fmt: skip
_FLOAT = {
    "f": "false", "lt": "olt", "eq": "oeq", "le": "ole", "gt": "ogt", "lg": "one", "ge": "oge",
    "o": "ord", "u": "uno", "nge": "ult", "nlg": "ueq", "ngt": "ule", "nle": "ugt", "neq": "une",
    "nlt": "uge", "t": "true",
}  # fmt: skip
_INTEGER = {"lt": "lt", "eq": "eq", "le": "le", "gt": "gt", "ne": "ne", "ge": "ge"}
# Bits of v_cmp_class and of LLVM's is.fpclass are in the same order.
_CLASSES = 10


def compare(wave: Wave, name: str) -> None:
    """Translate v_cmp and v_cmpx."""
    match = re.fullmatch(r"v_cmp(x?)_(\w+)_([fiu]\d+)", name)
    if match is None:
        raise Untranslated(name)
    to = EXEC if match[1] else wave.instruction.sdst
    kind = _KINDS[match[3]]
    if match[2] == "class":
        found = _in_class(wave, kind)
    else:
        a, b = wave.operand(0, kind), wave.operand(1, kind)
        found = _compared(a, b, match[2], match[3][0])
    where = wave.writes()
    wave.set_mask(to, found if where is None else found & where)


def _compared(a: Lanes, b: Lanes, relation: str, letter: str) -> Lanes:
    if letter == "f":
        return a.compare(_FLOAT[relation], b)
    if relation in ("f", "t"):
        return a.function.constant("i1", relation == "t", WAVE)
    sign = "" if relation in ("eq", "ne") else "s" if letter == "i" else "u"
    return a.compare(sign + _INTEGER[relation], b)


def _in_class(wave: Wave, kind: str) -> Lanes:
    """Whether a float is of one of the classes whose bits are set in the second operand."""
    x = wave.operand(0, kind, signalling=True)
    wanted = wave.operand(1, "i16" if kind == "half" else "i32").to("i32")
    if kind == "half":  # its denormals are normal floats
        x = _with_half_classes(x)
    found = wave.ir.constant("i1", 0, WAVE)
    name = f"llvm.is.fpclass.v{WAVE}f{x.bits}"
    for bit in range(_CLASSES):
        is_it = wave.ir.intrinsic(found, name, x, f"i32 {1 << bit}")
        found = found | (is_it & ((wanted >> bit) & 1).to("i1"))
    return found


def _with_half_classes(x: Lanes) -> Lanes:
    """A float of the class that the half has: its denormals made denormals."""
    magnitude = x.absolute()
    small = magnitude.compare("olt", 2.0**-14) & magnitude.compare("ogt", 0.0)
    return small.select(x.like(2.0**-140).call("copysign", x), x)
