"""Instructions on floats, comparisons and conversions.

Sums, products, quotients and roots are rounded to even as the instructions are; what PTX only
approximates comes from the host at its best, which is closer than a card is. bf16 has comparisons,
signs and conversions. Rounding in another direction is not translated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from exosuit.softcard.nvidia.ptx import mathematics
from exosuit.softcard.nvidia.ptx.parse import Instruction
from exosuit.softcard.nvidia.ptx.types import Type, is_type, operand, result, type_of, unsupported
from exosuit.softcard.nvidia.ptx.warp import FLOAT, INTEGER, Warp
from exosuit.softcard.translation.ir import Lanes

_SIGN = {16: 0x8000, 32: 0x8000_0000, 64: 1 << 63}


def floats(warp: Warp, made: Instruction) -> None:
    """An instruction whose type is a float: arithmetic and mathematics."""
    kind, (to, *sources) = type_of(made.parts[-1]), made.operands
    if any(made.has(x) for x in ("rm", "rp", "rz", "relu", "xorsign")):
        raise unsupported(warp)
    if made.name in _SIGNS:
        words = Type("b", kind.bits, kind.pack)
        values = [operand(warp, text, words) for text in sources]
        return result(warp, to, _SIGNS[made.name](values, kind.bits), words)
    if kind.letter == "bf":
        raise unsupported(warp)
    values = [operand(warp, text, kind) for text in sources]
    if made.has("ftz"):
        values = [mathematics.flushed(x) for x in values]
    value = _computed(warp, made, values)
    if made.has("ftz"):
        value = mathematics.flushed(value)
    if made.has("sat"):
        value = value.call("maxnum", 0.0).call("minnum", 1.0)
    return result(warp, to, value, kind)


def _computed(warp: Warp, made: Instruction, values: list[Lanes]) -> Lanes:
    name = made.name
    if name in ("min", "max"):
        word = f"{name}imum" if made.has("NaN") else f"{name}num"
        # From sm_100 on there may be three.
        return reduce(lambda a, b: a.call(word, b), values)
    if values[0].kind == "half":
        wide = [x.to("double" if name in ("fma", "mad") else "float") for x in values]
        value = _computed(warp, made, wide)
        return _to_half(value)
    if name in ("fma", "mad") and len(values) == 3:
        return values[0].fma(values[1], values[2])
    if name in _BINARY and len(values) == 2:
        return _BINARY[name](values[0], values[1])
    found = _UNARY.get(name) or mathematics.FUNCTIONS.get(name) if len(values) == 1 else None
    if found is None:
        raise unsupported(warp)
    return found(values[0])


_BINARY: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
_UNARY: dict[str, Callable[[Lanes], Lanes]] = {
    "sqrt": lambda a: a.call("sqrt"),
    "rcp": lambda a: a.like(1.0) / a,
    "rsqrt": lambda a: a.like(1.0) / a.call("sqrt"),
}


def _copy_sign(values: list[Lanes], bits: int) -> Lanes:
    sign, size = values
    return (sign & _SIGN[bits]) | (size & (_SIGN[bits] - 1))


_SIGNS: dict[str, Callable[[list[Lanes], int], Lanes]] = {
    "neg": lambda values, bits: values[0] ^ _SIGN[bits],
    "abs": lambda values, bits: values[0] & (_SIGN[bits] - 1),
    "copysign": _copy_sign,
}


# Comparisons ----------------------------------------------------------------------------------

_SIGNED = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_UNSIGNED = {
    "eq": "eq", "ne": "ne", "lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge",
    "lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge",
}  # fmt: skip
_REAL = {
    "eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "num": "ord",
    "equ": "ueq", "neu": "une", "ltu": "ult", "leu": "ule", "gtu": "ugt", "geu": "uge",
    "nan": "uno",
}  # fmt: skip


def compare(warp: Warp, made: Instruction) -> None:
    """Setp: one predicate, or two as `p|q`: of a pair one each, else the truth and its inverse."""
    kind, (to, first, second, *third) = type_of(made.parts[-1]), made.operands
    a, b = operand(warp, first, kind), operand(warp, second, kind)
    if kind.letter == "bf":
        a, b = _from_bf16(a), _from_bf16(b)
    if made.has("ftz"):
        a, b = mathematics.flushed(a), mathematics.flushed(b)
    table = _REAL if kind.is_float else _SIGNED if kind.signed else _UNSIGNED
    truth = a.compare(table[made.parts[1]], b)
    names = to.split("|")
    if kind.pack == 2:
        values = [truth.shuffle(range(k, truth.count, 2)) for k in range(2)]
    else:
        values = [truth, ~truth] if len(names) == 2 else [truth]
    if third:
        other = operand(warp, third[0], Type("pred", 1))
        join = {"and": Lanes.__and__, "or": Lanes.__or__, "xor": Lanes.__xor__}[made.parts[2]]
        values = [join(x, other) for x in values]
    for name, value in zip(names, values, strict=True):
        warp.write(name, value)


# Conversions ----------------------------------------------------------------------------------

_TO_INTEGRAL = {
    "rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil",
}  # fmt: skip


def convert(warp: Warp, made: Instruction) -> None:
    to_type, from_type = (type_of(x) for x in made.parts if is_type(x))
    to, *sources = made.operands
    if any(made.has(x) for x in ("rm", "rp", "relu", "sat", "rna", "satfinite")):
        raise unsupported(warp)
    if to_type.pack == 2:
        high, low = (_narrowed(operand(warp, x, from_type), to_type) for x in sources)
        words = [x.view("i16").to("i32") for x in (low, high)]
        return warp.write(to, words[0] | (words[1] << 16))
    value = operand(warp, sources[0], from_type)
    if not from_type.is_float and not to_type.is_float:
        return _between_integers(warp, to, value, from_type, to_type)
    if from_type.letter == "bf":
        value = _from_bf16(value)
    if made.has("ftz"):
        value = mathematics.flushed(value)
    rounding = next((_TO_INTEGRAL[x] for x in made.parts if x in _TO_INTEGRAL), None)
    if not to_type.is_float:
        return warp.write(to, _to_integer(value, rounding or "trunc", to_type))
    if not value.is_float:
        wide = "double" if to_type.bits == 16 or value.bits == 32 else FLOAT[to_type.bits]
        value = value.to(wide if to_type.letter == "f" else "double", from_type.signed)
    elif rounding is not None:
        if value.kind == "half":
            value = value.to("float")
        value = value.call(rounding)
    return warp.write(to, _narrowed(value, to_type))


def _between_integers(warp: Warp, to: str, value: Lanes, from_type: Type, to_type: Type) -> None:
    """Cut or extended to the type asked for, then extended to the register."""
    width = warp.entry.bits(to)
    value = value.to(INTEGER[to_type.bits], from_type.signed)
    warp.write(to, value.to(INTEGER[max(width, to_type.bits)], to_type.signed))


def _to_integer(value: Lanes, rounding: str, to_type: Type) -> Lanes:
    """Saturated; NaN becomes 0, or the top bit where there are 64."""
    if value.kind == "half":
        value = value.to("float")
    made = value.call(rounding).saturated(INTEGER[to_type.bits], to_type.signed)
    if to_type.bits == 64:
        made = value.compare("uno", value).select(-(1 << 63), made)
    return made


def _narrowed(value: Lanes, to_type: Type) -> Lanes:
    """A float of whatever width rounded to even."""
    if to_type.letter == "bf":
        return _to_bf16(value.to("float"))
    if to_type.bits == 16:
        return _to_half(value)
    return value.to(FLOAT[to_type.bits])


def _from_bf16(value: Lanes) -> Lanes:
    return (value.to("i32") << 16).view("float")


def _to_bf16(value: Lanes) -> Lanes:
    bits = value.view("i32")
    rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    return value.compare("uno", value).select(0x7FFF, rounded).to("i16")


def _to_half(value: Lanes) -> Lanes:
    """From a double by way of a float that is rounded to odd, so that it is rounded only once."""
    if value.kind != "double":
        return value.to("half")
    near = value.to("float")
    error = value - near.to("double")
    bits = near.view("i32")
    wrong = error.ne(0.0) & (bits & 1).eq(0) & (bits & 0x7F80_0000).ne(0x7F80_0000)
    away = error.compare("ogt", 0.0) ^ bits.compare("slt", 0)
    odd = wrong.select(bits + away.select(bits.like(1), -1), bits)
    return odd.view("float").to("half")
