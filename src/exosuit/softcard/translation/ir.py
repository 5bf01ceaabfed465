"""LLVM IR as it is written down: lines of a function, and values that write lines when used.

A `Lanes` is one IR value: a scalar, or a vector with one element for each lane. Its operators emit
instructions into the function it belongs to; Python numbers among their operands become constants,
splat where needed. Integers have no sign: operations that care say so in their name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

WAVE = 32
"""Lanes of a wave."""

_BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "half": 16, "float": 32, "double": 64}
_FLOATS = ("half", "float", "double")
_SUFFIX = {"half": "f16", "float": "f32", "double": "f64"}


def type_name(kind: str, count: int) -> str:
    """LLVM's name of a scalar (count 1) or vector type."""
    return kind if count == 1 else f"<{count} x {kind}>"


class Function:
    """The body of one function.

    declarations  the intrinsics that its module must declare
    ieee          min and max of a signalling NaN give a NaN in this function
    """

    def __init__(self, ieee: bool = True) -> None:
        self.ieee = ieee
        self.lines: list[str] = []
        self.declarations: dict[str, str] = {}
        self._names = 0

    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def name(self) -> str:
        self._names += 1
        return f"t{self._names}"

    def assign(self, text: str) -> str:
        name = "%" + self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def value(self, kind: str, count: int, text: str) -> Lanes:
        """The result of the instruction `text`."""
        return Lanes(self, kind, count, self.assign(text))

    def constant(self, kind: str, number: float, count: int = 1) -> Lanes:
        return Lanes(self, kind, count, _constant(kind, number, count))

    def vector(self, kind: str, numbers: Iterable[float]) -> Lanes:
        """A constant with these elements."""
        elements = [f"{kind} {_constant(kind, number, 1)}" for number in numbers]
        return Lanes(self, kind, len(elements), f"<{', '.join(elements)}>")

    def lane_numbers(self, step: int = 1, kind: str = "i32", count: int = WAVE) -> Lanes:
        """The constant 0, step, 2 step, ..."""
        return self.vector(kind, range(0, count * step, step))

    def intrinsic(self, result: Lanes | str, name: str, *operands: Lanes | str) -> Lanes:
        """Call of an LLVM intrinsic; a `str` operand is a constant with its type."""
        kind, count = (result, 1) if isinstance(result, str) else (result.kind, result.count)
        types = [o.type if isinstance(o, Lanes) else o.split()[0] for o in operands]
        shown = [o.typed if isinstance(o, Lanes) else o for o in operands]
        to = type_name(kind, count)
        self.declarations[name] = f"declare {to} @{name}({', '.join(types)})"
        return self.value(kind, count, f"call {to} @{name}({', '.join(shown)})")

    def address(self, base: str, offset: int | Lanes) -> str:
        """`base` moved by bytes."""
        if isinstance(offset, int):
            return (
                base if offset == 0 else self.assign(f"getelementptr i8, ptr {base}, i64 {offset}")
            )
        return self.assign(f"getelementptr i8, ptr {base}, {offset.typed}")

    def load(self, kind: str, count: int, pointer: str, align: int) -> Lanes:
        to = type_name(kind, count)
        return self.value(kind, count, f"load {to}, ptr {pointer}, align {align}")

    def store(self, value: Lanes, pointer: str, align: int) -> None:
        self.emit(f"store {value.typed}, ptr {pointer}, align {align}")

    def jump(self, to: str) -> None:
        self.emit(f"br label %{to}")

    def branch(self, condition: Lanes, yes: str, no: str) -> None:
        self.emit(f"br i1 {condition.text}, label %{yes}, label %{no}")

    def phi(self, kind: str, count: int, *incoming: tuple[Lanes | int, str]) -> Lanes:
        pairs = [f"[ {x.text if isinstance(x, Lanes) else x}, %{label} ]" for x, label in incoming]
        return self.value(kind, count, f"phi {type_name(kind, count)} {', '.join(pairs)}")


class Lanes:
    """One IR value.

    kind   LLVM's name of the element type
    count  1 for a scalar, else the number of elements
    text   its name, or a constant
    """

    __slots__ = ("count", "function", "kind", "text")

    def __init__(self, function: Function, kind: str, count: int, text: str) -> None:
        self.function = function
        self.kind = kind
        self.count = count
        self.text = text

    @property
    def type(self) -> str:
        return type_name(self.kind, self.count)

    @property
    def typed(self) -> str:
        return f"{self.type} {self.text}"

    @property
    def bits(self) -> int:
        return _BITS[self.kind]

    @property
    def is_float(self) -> bool:
        return self.kind in _FLOATS

    @property
    def number(self) -> int | None:
        """The value of a scalar integer constant."""
        try:
            return int(self.text)
        except ValueError:
            return None

    # Arithmetic ---------------------------------------------------------------------------

    def _operand(self, other: Lanes | float) -> str:
        if isinstance(other, Lanes):
            assert (other.kind, other.count) == (self.kind, self.count), (self.typed, other.typed)
            return other.text
        return _constant(self.kind, other, self.count)

    def _binary(self, name: str, other: Lanes | float) -> Lanes:
        text = f"{name} {self.type} {self.text}, {self._operand(other)}"
        return self.function.value(self.kind, self.count, text)

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._binary("fadd" if self.is_float else "add", other)

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._binary("fsub" if self.is_float else "sub", other)

    def __rsub__(self, other: float) -> Lanes:
        return self.like(other) - self

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._binary("fmul" if self.is_float else "mul", other)

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._binary("fdiv", other)

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._binary("and", other)

    def __or__(self, other: Lanes | int) -> Lanes:
        return self._binary("or", other)

    def __xor__(self, other: Lanes | int) -> Lanes:
        return self._binary("xor", other)

    def __invert__(self) -> Lanes:
        return self ^ (1 if self.kind == "i1" else -1)

    def __neg__(self) -> Lanes:
        if not self.is_float:
            return 0 - self
        return self.function.value(self.kind, self.count, f"fneg {self.typed}")

    def __lshift__(self, other: Lanes | int) -> Lanes:
        return self._binary("shl", other)

    def __rshift__(self, other: Lanes | int) -> Lanes:
        """Zeros come in; see `ashr`."""
        return self._binary("lshr", other)

    def ashr(self, other: Lanes | int) -> Lanes:
        """Shift right, the sign comes in."""
        return self._binary("ashr", other)

    def call(self, name: str, *others: Lanes | float) -> Lanes:
        """The intrinsic `llvm.NAME` of this type."""
        operands = [
            x if isinstance(x, Lanes) else Lanes(self.function, self.kind, self.count,
                                                 self._operand(x))
            for x in others
        ]  # fmt: skip
        return self.function.intrinsic(self, f"llvm.{name}.{self._suffix()}", self, *operands)

    def _suffix(self) -> str:
        kind = _SUFFIX.get(self.kind, self.kind)
        return kind if self.count == 1 else f"v{self.count}{kind}"

    def fma(self, factor: Lanes | float, addend: Lanes | float) -> Lanes:
        return self.call("fma", factor, addend)

    def absolute(self) -> Lanes:
        """Of a float."""
        return self.call("fabs")

    def smin(self, other: Lanes | int) -> Lanes:
        return self.call("smin", other)

    def smax(self, other: Lanes | int) -> Lanes:
        return self.call("smax", other)

    def umin(self, other: Lanes | int) -> Lanes:
        return self.call("umin", other)

    def umax(self, other: Lanes | int) -> Lanes:
        return self.call("umax", other)

    # Comparison and choice ----------------------------------------------------------------

    def compare(self, predicate: str, other: Lanes | float) -> Lanes:
        """LLVM's icmp or fcmp."""
        name = "fcmp" if self.is_float else "icmp"
        text = f"{name} {predicate} {self.type} {self.text}, {self._operand(other)}"
        return self.function.value("i1", self.count, text)

    def eq(self, other: Lanes | float) -> Lanes:
        return self.compare("oeq" if self.is_float else "eq", other)

    def ne(self, other: Lanes | float) -> Lanes:
        return self.compare("une" if self.is_float else "ne", other)

    def ult(self, other: Lanes | int) -> Lanes:
        return self.compare("ult", other)

    def select(self, yes: Lanes | float, no: Lanes | float) -> Lanes:
        """`yes` where this i1 holds, else `no`; at least one of them is a value."""
        known = yes if isinstance(yes, Lanes) else no
        assert isinstance(known, Lanes)
        condition = f"{type_name('i1', self.count)} {self.text}"
        text = (
            f"select {condition}, {known.type} {known._operand(yes)}, "
            f"{known.type} {known._operand(no)}"
        )
        return self.function.value(known.kind, known.count, text)

    # Types --------------------------------------------------------------------------------

    def like(self, number: float) -> Lanes:
        """A constant of this type."""
        return self.function.constant(self.kind, number, self.count)

    def to(self, kind: str, signed: bool = False) -> Lanes:
        """Converted: integers widen with zeros or their sign or are cut, floats round to even."""
        if kind == self.kind:
            return self
        if self.is_float and kind in _FLOATS:
            name = "fpext" if _BITS[kind] > self.bits else "fptrunc"
        elif self.is_float:
            name = "fptosi" if signed else "fptoui"
        elif kind in _FLOATS:
            name = "sitofp" if signed else "uitofp"
        elif _BITS[kind] > self.bits:
            name = "sext" if signed else "zext"
        else:
            name = "trunc"
        to = type_name(kind, self.count)
        return self.function.value(kind, self.count, f"{name} {self.typed} to {to}")

    def saturated(self, kind: str, signed: bool) -> Lanes:
        """A float as the nearest integer towards zero that `kind` has; NaN gives 0."""
        made = Lanes(self.function, kind, self.count, "")
        name = f"llvm.fpto{'s' if signed else 'u'}i.sat.{made._suffix()}.{self._suffix()}"
        return self.function.intrinsic(made, name, self)

    def view(self, kind: str, count: int | None = None) -> Lanes:
        """The same bits as another type."""
        count = self.count if count is None else count
        if (kind, count) == (self.kind, self.count):
            return self
        text = f"bitcast {self.typed} to {type_name(kind, count)}"
        return self.function.value(kind, count, text)

    # Elements -----------------------------------------------------------------------------

    def splat(self, count: int = WAVE) -> Lanes:
        """This scalar in every lane."""
        if not self.text.startswith("%"):
            return Lanes(self.function, self.kind, count, f"splat ({self.kind} {self.text})")
        to = type_name(self.kind, count)
        first = self.function.assign(f"insertelement {to} poison, {self.typed}, i64 0")
        zeros = f"<{count} x i32> zeroinitializer"
        text = f"shufflevector {to} {first}, {to} poison, {zeros}"
        return self.function.value(self.kind, count, text)

    def lane(self, index: int | Lanes) -> Lanes:
        shown = f"i64 {index}" if isinstance(index, int) else index.typed
        return self.function.value(self.kind, 1, f"extractelement {self.typed}, {shown}")

    def shuffle(self, indices: Sequence[int], other: Lanes | None = None) -> Lanes:
        """The elements with these indices, of this and then `other`."""
        second = f"{self.type} poison" if other is None else other.typed
        mask = f"<{len(indices)} x i32> <{', '.join(f'i32 {k}' for k in indices)}>"
        text = f"shufflevector {self.typed}, {second}, {mask}"
        return self.function.value(self.kind, len(indices), text)


def _constant(kind: str, number: float, count: int) -> str:
    if kind in _FLOATS:
        text = _float_text(kind, float(number))
    else:
        bits = _BITS[kind]
        value = int(number) & ((1 << bits) - 1)
        text = str(value - (1 << bits) if bits > 1 and value >> (bits - 1) else value)
    return text if count == 1 else f"splat ({kind} {text})"


def _float_text(kind: str, number: float) -> str:
    if kind == "half":
        return f"0xH{struct.pack('>e', number).hex().upper()}"
    if kind == "float":
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return f"0x{struct.pack('>d', number).hex().upper()}"
