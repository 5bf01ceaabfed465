"""Instructions on integers, bits and predicates, and what moves and chooses."""

from __future__ import annotations

from collections.abc import Callable

from exosuit.softcard.nvidia.ptx.parse import Instruction
from exosuit.softcard.nvidia.ptx.state import WARP
from exosuit.softcard.nvidia.ptx.types import Type, operand, result, type_of, unsupported
from exosuit.softcard.nvidia.ptx.warp import INTEGER, Warp, vector
from exosuit.softcard.translation.ir import Function, Lanes, type_name

Binary = Callable[[Lanes, Lanes, Type], Lanes]


def _minimum(a: Lanes, b: Lanes, kind: Type) -> Lanes:
    return a.smin(b) if kind.signed else a.umin(b)


def _maximum(a: Lanes, b: Lanes, kind: Type) -> Lanes:
    return a.smax(b) if kind.signed else a.umax(b)


def _quotient(name: str, a: Lanes, b: Lanes) -> Lanes:
    return a.function.value(a.kind, a.count, f"{name} {a.typed}, {b.text}")


def _divide(a: Lanes, b: Lanes, kind: Type) -> Lanes:
    """All ones where the divisor is 0; the host's instruction would end the process."""
    safe = b.eq(0).select(1, b)
    if not kind.signed:
        return b.eq(0).select(-1, _quotient("udiv", a, safe))
    safe = b.eq(-1).select(1, safe)
    quotient = b.eq(-1).select(-a, _quotient("sdiv", a, safe))
    return b.eq(0).select(-1, quotient)


def _remainder(a: Lanes, b: Lanes, kind: Type) -> Lanes:
    return b.eq(0).select(a, a - _divide(a, b, kind) * b)


_BINARY: dict[str, Binary] = {
    "add": lambda a, b, kind: a + b,
    "sub": lambda a, b, kind: a - b,
    "min": _minimum,
    "max": _maximum,
    "div": _divide,
    "rem": _remainder,
    "and": lambda a, b, kind: a & b,
    "or": lambda a, b, kind: a | b,
    "xor": lambda a, b, kind: a ^ b,
}

_UNARY: dict[str, Callable[[Lanes], Lanes]] = {
    "neg": lambda a: -a,
    "not": lambda a: ~a,
    "abs": lambda a: a.compare("slt", 0).select(-a, a),
    "popc": lambda a: a.call("ctpop"),
    "brev": lambda a: a.call("bitreverse"),
    "clz": lambda a: a.function.intrinsic(
        a, f"llvm.ctlz.v{a.count}{a.kind}", a, "i1 false"
    ),
}  # fmt: skip


def _simple(warp: Warp, made: Instruction) -> None:
    kind, (to, *sources) = type_of(made.parts[-1]), made.operands
    if made.has("sat") or made.has("cc"):
        raise unsupported(warp)
    values = [operand(warp, text, kind) for text in sources]
    if len(values) > 2:
        raise unsupported(warp)
    if len(values) == 1:
        value = _UNARY[made.name](values[0])
        result(warp, to, value, Type("u", 32) if made.name in ("popc", "clz") else kind)
    else:
        result(warp, to, _BINARY[made.name](values[0], values[1], kind), kind)


def _multiply(warp: Warp, made: Instruction) -> None:
    """Mul and mad, of which .lo, .hi or .wide says what is kept."""
    kind, (to, *sources) = type_of(made.parts[-1]), made.operands
    a, b = (operand(warp, text, kind) for text in sources[:2])
    if made.has("lo"):
        value = a * b
    else:
        wide = f"i{2 * kind.bits}"
        if kind.bits == 64:
            value = _high_of_64(a, b, kind.signed)
        else:
            value = a.to(wide, kind.signed) * b.to(wide, kind.signed)
            if made.has("hi"):
                value = (value >> kind.bits).to(a.kind)
    if made.name == "mad":
        value = value + warp.integer(sources[2], value.bits)
    warp.write(to, value)


def _high_of_64(a: Lanes, b: Lanes, signed: bool) -> Lanes:
    """The upper half of a product of 64-bit integers, from four of 32-bit ones."""
    mask = 0xFFFF_FFFF
    a0, a1, b0, b1 = a & mask, a >> 32, b & mask, b >> 32
    middle = a1 * b0 + ((a0 * b0) >> 32)
    other = a0 * b1 + (middle & mask)
    high = a1 * b1 + (middle >> 32) + (other >> 32)
    if signed:
        high = high - a.compare("slt", 0).select(b, 0) - b.compare("slt", 0).select(a, 0)
    return high


def _shift(warp: Warp, made: Instruction) -> None:
    """Amounts beyond the width shift everything out."""
    kind, (to, source, by) = type_of(made.parts[-1]), made.operands
    value, amount = operand(warp, source, kind), warp.integer(by, 32)
    beyond = amount.compare("ugt", kind.bits - 1)
    amount = beyond.select(kind.bits - 1, amount).to(INTEGER[kind.bits])
    if made.name == "shr" and kind.signed:
        return warp.write(to, value.ashr(amount))
    moved = value << amount if made.name == "shl" else value >> amount
    return warp.write(to, beyond.select(0, moved))


def _funnel(warp: Warp, made: Instruction) -> None:
    to, *sources = made.operands
    low, high, amount = (warp.integer(text, 32) for text in sources)
    if made.has("clamp"):
        amount = amount.umin(32)
        wide = (high.to("i64") << 32) | low.to("i64")
        if made.has("l"):
            return warp.write(to, ((wide << amount.to("i64")) >> 32).to("i32"))
        return warp.write(to, (wide >> amount.to("i64")).to("i32"))
    name = "fshl" if made.has("l") else "fshr"
    return warp.write(to, high.call(name, low, amount))


def _extract(warp: Warp, made: Instruction) -> None:
    """Bfe: a field from bit b, c bits wide; beyond the top come zeros or the field's sign."""
    kind, (to, source, *places) = type_of(made.parts[-1]), made.operands
    value = operand(warp, source, kind)
    start, width = ((warp.integer(text, 32) & 255).to(value.kind) for text in places)
    shifted = start.compare("ugt", kind.bits - 1).select(
        value.ashr(kind.bits - 1) if kind.signed else value.like(0),
        (value.ashr if kind.signed else value.__rshift__)(start.umin(kind.bits - 1)),
    )
    unused = (kind.bits - width.umin(kind.bits)).umin(kind.bits - 1)
    left = shifted << unused
    field = left.ashr(unused) if kind.signed else left >> unused
    warp.write(to, width.eq(0).select(0, field))


def _insert(warp: Warp, made: Instruction) -> None:
    kind, (to, source, into, *places) = type_of(made.parts[-1]), made.operands
    value, base = operand(warp, source, kind), operand(warp, into, kind)
    start, width = ((warp.integer(text, 32) & 255).to(value.kind) for text in places)
    ones = width.compare("ugt", kind.bits - 1).select(
        -1, (value.like(1) << width.umin(kind.bits - 1)) - 1
    )
    shift = start.umin(kind.bits - 1)
    mask = start.compare("ugt", kind.bits - 1).select(0, ones << shift)
    warp.write(to, (base & ~mask) | ((value << shift) & mask))


def _permute(warp: Warp, made: Instruction) -> None:
    """Prmt: four times one of eight bytes, or its sign eight times."""
    if len(made.parts) > 2:
        raise unsupported(warp)
    to, low, high, selector = made.operands
    pair = warp.integer(low, 32).to("i64") | (warp.integer(high, 32).to("i64") << 32)
    choice = warp.integer(selector, 32)
    parts: list[Lanes] = []
    for k in range(4):
        nibble = choice >> (4 * k)
        byte = (pair >> ((nibble & 7) << 3).to("i64")).to("i32") & 0xFF
        sign = (byte >> 7) * 0xFF
        parts.append((nibble & 8).eq(0).select(byte, sign) << (8 * k))
    warp.write(to, (parts[0] | parts[1]) | (parts[2] | parts[3]))


def _lop3(warp: Warp, made: Instruction) -> None:
    to, *sources, table = made.operands
    a, b, c = (warp.integer(text, 32) for text in sources)
    total = a.like(0)
    for k in range(8):
        if int(table, 0) >> k & 1:
            total = total | (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    warp.write(to, total)


def _dot4(warp: Warp, made: Instruction) -> None:
    """A function of the module: programs have hundreds, each of two dozen instructions."""
    to, *sources = made.operands
    name = "_".join(made.parts)
    if name not in warp.used:
        warp.used[name] = _dot4_text(name, [part == "s32" for part in made.parts[1:]])
    operands = ", ".join(warp.integer(text, 32).typed for text in sources)
    kind = type_name("i32", WARP)
    warp.write(to, warp.ir.value("i32", WARP, f"call {kind} @{name}({operands})"))


def _dot4_text(name: str, signs: list[bool]) -> str:
    """`name(a, b, total)`: the products of four bytes each, added to the total."""
    ir, kind = Function(), type_name("i32", WARP)
    a, b, total = (Lanes(ir, "i32", WARP, f"%{k}") for k in "abc")
    for k in range(4):
        product: list[Lanes] = []
        for value, signed in zip((a, b), signs, strict=True):
            top = value << (24 - 8 * k)
            product.append(top.ashr(24) if signed else top >> 24)
        total = total + product[0] * product[1]
    head = f"define internal {kind} @{name}({kind} %a, {kind} %b, {kind} %c) nounwind {{"
    return "\n".join([head, *ir.lines, f"  ret {total.typed}", "}"])


# Choosing and moving --------------------------------------------------------------------------


def _move(warp: Warp, made: Instruction) -> None:
    kind, (to, source) = type_of(made.parts[-1]), made.operands
    if to.startswith("{"):
        names = vector(to)
        bits = kind.bits // len(names)
        parts = warp.integer(source, kind.bits).view(INTEGER[bits], WARP * len(names))
        for k, name in enumerate(names):
            warp.write(name, parts.shuffle(range(k, parts.count, len(names))))
    elif source.startswith("{"):
        names = vector(source)
        bits = kind.bits // len(names)
        total = None
        for k, name in enumerate(names):
            part = warp.integer(name, bits).to(INTEGER[kind.bits]) << (bits * k)
            total = part if total is None else total | part
        assert total is not None
        warp.write(to, total)
    else:
        warp.write(to, operand(warp, source, Type("b", kind.bits) if kind.bits > 1 else kind))


def _select(warp: Warp, made: Instruction) -> None:
    kind, (to, yes, no, condition) = type_of(made.parts[-1]), made.operands
    a, b = (operand(warp, text, kind) for text in (yes, no))
    warp.write(to, warp.predicate(condition).select(a, b))


HANDLERS: dict[str, Callable[[Warp, Instruction], None]] = {
    **dict.fromkeys([*_BINARY, *_UNARY], _simple),
    "mul": _multiply, "mad": _multiply, "shl": _shift, "shr": _shift,
    "shf": _funnel, "bfe": _extract, "bfi": _insert, "prmt": _permute, "lop3": _lop3,
    "dp4a": _dot4, "mov": _move, "selp": _select,
}  # fmt: skip
