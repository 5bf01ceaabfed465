"""Values of the kernel language: what a kernel's expressions are made of.

A `Value` is a scalar or a small vector; arithmetic on it emits IR. Python numbers mix in freely
and take the other operand's type; a scalar mixes with a vector by standing in every lane. Types
never convert by themselves: `x.to(f32)` converts the number, `x.view(i16)` the bits.

What they are loaded from and stored to is in `memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.types import (
    DType,
    DTypeClass,
    Type,
    bf16,
    boolean,
    constant_text,
    f16,
    f32,
    f64,
    i32,
    i64,
    u16,
    u32,
)


class Value:
    """A scalar or vector that exists while the kernel runs. Immutable."""

    __slots__ = ("ir", "type")

    def __init__(self, type: Type, ir: str) -> None:
        self.type = type
        self.ir = ir

    @property
    def dtype(self) -> DTypeClass:
        return self.type.dtype

    @property
    def lanes(self) -> int:
        return self.type.lanes

    @property
    def typed(self) -> str:
        """`<8 x float> %v3`, as an operand of a call or store."""
        return f"{self.type.ir} {self.ir}"

    # Arithmetic ---------------------------------------------------------------------------

    def __add__(self, other: Value | float) -> Value:
        return _arithmetic("add", self, other)

    def __radd__(self, other: float) -> Value:
        return _arithmetic("add", self, other)

    def __sub__(self, other: Value | float) -> Value:
        return _arithmetic("sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return _arithmetic("sub", constant_like(self, other), self)

    def __mul__(self, other: Value | float) -> Value:
        return _arithmetic("mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return _arithmetic("mul", self, other)

    def __truediv__(self, other: Value | float) -> Value:
        if not self.type.is_float:
            raise refuse(f"{self.type} / ...", "true division is for floats; use // or >>")
        return _arithmetic("div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return constant_like(self, other) / self

    def __floordiv__(self, other: Value | int) -> Value:
        """Integer division towards zero."""
        return _integer("sdiv" if self.type.is_signed else "udiv", self, other)

    def __mod__(self, other: Value | int) -> Value:
        """Remainder of `//`, with the sign of the dividend."""
        return _integer("srem" if self.type.is_signed else "urem", self, other)

    def __and__(self, other: Value | int) -> Value:
        return _integer("and", self, other)

    def __or__(self, other: Value | int) -> Value:
        return _integer("or", self, other)

    def __xor__(self, other: Value | int) -> Value:
        return _integer("xor", self, other)

    def __lshift__(self, other: Value | int) -> Value:
        return _integer("shl", self, other)

    def __rshift__(self, other: Value | int) -> Value:
        """Arithmetic for signed types, logical for unsigned ones."""
        return _integer("ashr" if self.type.is_signed else "lshr", self, other)

    def __invert__(self) -> Value:
        return self ^ (1 if self.dtype is boolean else -1)

    def __neg__(self) -> Value:
        if self.type.is_float:
            return Value(self.type, current().assign(f"fneg {self.typed}"))
        return constant_like(self, 0) - self

    # Comparison ---------------------------------------------------------------------------

    def __lt__(self, other: Value | float) -> Value:
        return _compare("lt", self, other)

    def __le__(self, other: Value | float) -> Value:
        return _compare("le", self, other)

    def __gt__(self, other: Value | float) -> Value:
        return _compare("gt", self, other)

    def __ge__(self, other: Value | float) -> Value:
        return _compare("ge", self, other)

    def eq(self, other: Value | float) -> Value:
        """Equality; a method because `==` must stay Python's."""
        return _compare("eq", self, other)

    def ne(self, other: Value | float) -> Value:
        return _compare("ne", self, other)

    def __bool__(self) -> bool:
        raise refuse(
            "a value of the running kernel cannot decide a Python branch",
            "its value is not known while compiling; use select() or `with when(condition):`",
        )

    # Conversion ---------------------------------------------------------------------------

    def to(self, dtype: DTypeClass) -> Value:
        """The same number in another type, rounded to nearest even.

        Floats to integers truncate towards zero; what does not fit has no defined result. To bf16,
        and from f64 to f16, the way leads through f32 and so may round twice.
        """
        return _convert(self, dtype)

    def view(self, dtype: DTypeClass) -> Value:
        """The same bits as another type; the number of lanes follows from the width."""
        lanes, rest = divmod(self.type.bits, dtype.bits)
        if rest:
            raise refuse(f"{self.type} viewed as {dtype.__name__}", "the widths do not divide")
        to = Type(dtype, lanes)
        if to.ir == self.type.ir:
            return Value(to, self.ir)
        return Value(to, current().assign(f"bitcast {self.typed} to {to.ir}"))

    # Lanes --------------------------------------------------------------------------------

    def __getitem__(self, lane: int) -> Value:
        """One lane, chosen while compiling."""
        if self.lanes == 1:
            return self
        text = current().assign(f"extractelement {self.typed}, i32 {lane}")
        return Value(Type(self.dtype), text)

    def splat(self, lanes: int) -> Value:
        """This scalar in every one of `lanes` lanes."""
        if lanes == 1 or self.lanes == lanes:
            return self
        if self.lanes != 1:
            raise refuse(f"splat of {self.type}", "only a scalar can stand in every lane")
        to = Type(self.dtype, lanes)
        builder = current()
        first = builder.assign(f"insertelement {to.ir} poison, {self.typed}, i32 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        return Value(to, builder.assign(f"shufflevector {to.ir} {first}, {to.ir} poison, {zeros}"))

    def shuffle(self, lanes: Sequence[int], other: Value | None = None) -> Value:
        """Lane `k` of the result is lane `lanes[k]` of this, or of `other` past this one's end."""
        if len(lanes) == 1:
            return (
                self[lanes[0]]
                if other is None or lanes[0] < self.lanes
                else (other[lanes[0] - self.lanes])
            )
        second = other.typed if other is not None else f"{self.type.ir} poison"
        order = ", ".join(f"i32 {lane}" for lane in lanes)
        text = current().assign(
            f"shufflevector {self.typed}, {second}, <{len(lanes)} x i32> <{order}>"
        )
        return Value(Type(self.dtype, len(lanes)), text)

    def reduce(self, operation: str) -> Value:
        """All lanes into one scalar: "add", "max" or "min"; the order of additions is free."""
        if self.lanes == 1:
            return self
        builder = current()
        if is_narrow(self.dtype):
            return self.to(f32).reduce(operation).to(self.dtype)
        if operation == "add" and self.type.is_float:
            zero = constant_text(Type(self.dtype), -0.0)
            name = f"llvm.vector.reduce.fadd.{self.type.suffix}"
            builder.declare(self.dtype.ir, name, [self.dtype.ir, self.type.ir])
            call = f"call reassoc {self.dtype.ir} @{name}({self.dtype.ir} {zero}, {self.typed})"
            return Value(Type(self.dtype), builder.assign(call))
        prefix = {"float": "f", "int": "s", "uint": "u", "bool": "u"}[self.dtype.kind]
        name = operation if operation == "add" else prefix + operation
        function = f"llvm.vector.reduce.{name}.{self.type.suffix}"
        text = builder.call(self.dtype.ir, function, (self.type.ir, self.ir))
        return Value(Type(self.dtype), text)


class Lanes(Value):
    """An index that differs by one from lane to lane: a vector that knows its first element.

    Adding a scalar keeps that; anything else makes it an ordinary vector of indices.
    """

    __slots__ = ("first",)

    def __init__(self, first: Value, lanes: int) -> None:
        builder = current()
        self.first = first
        text = ", ".join(f"{first.dtype.ir} {k}" for k in range(lanes))
        step = f"<{text}>" if lanes > 1 else "0"
        whole = first.splat(lanes)
        super().__init__(
            Type(first.dtype, lanes), builder.assign(f"add {whole.type.ir} {whole.ir}, {step}")
        )

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Value) and other.lanes > 1:
            return super().__add__(other)
        return Lanes(self.first + other, self.lanes)

    def __radd__(self, other: float) -> Value:
        return self + other

    def __sub__(self, other: Value | float) -> Value:
        if isinstance(other, Value) and other.lanes > 1:
            return super().__sub__(other)
        return Lanes(self.first - other, self.lanes)


D_co = TypeVar("D_co", bound=DType, covariant=True)


class Scalar(Value, Generic[D_co]):
    """Annotation of a kernel's parameter that is a number: `n: Scalar[i32]`."""

    __slots__ = ()


class Variable:
    """A value that changes: `total.value += x`. LLVM turns it into registers.

    Within lanes that are switched off (a masked `each`), assignments leave the old value.
    """

    __slots__ = ("_place", "_type")

    def __init__(self, initial: Value) -> None:
        self._type = initial.type
        self._place = current().allocate(initial.type.ir)
        self._store(initial)

    @property
    def value(self) -> Value:
        return Value(self._type, current().assign(f"load {self._type.ir}, ptr {self._place}"))

    @value.setter
    def value(self, new: Value | float) -> None:
        builder = current()
        if not isinstance(new, Value):
            new = constant(self._type.dtype, new, self._type.lanes)
        new = new.splat(self._type.lanes)
        if new.type != self._type:
            raise refuse(f"{new.type} assigned to a variable of {self._type}", "convert it first")
        if builder.mask is not None and builder.mask.lanes == self._type.lanes:
            mask, old = builder.mask, self.value
            new = Value(new.type, builder.assign(f"select {mask.typed}, {new.typed}, {old.typed}"))
        self._store(new)

    def _store(self, new: Value) -> None:
        current().emit(f"store {new.typed}, ptr {self._place}")


def constant(dtype: DTypeClass, value: float, lanes: int = 1) -> Value:
    """A number known while compiling, in every lane."""
    type = Type(dtype, lanes)
    if dtype.kind in ("int", "uint"):
        if value != int(value):
            raise refuse(f"{value} as {type}", "an integer constant must be whole")
        # Both readings of the bits are welcome: ~x is x ^ -1, of unsigned types too.
        if not -(1 << (dtype.bits - 1)) <= value < 1 << dtype.bits:
            raise refuse(f"{value} as {type}", f"it does not fit into {dtype.bits} bits")
    try:
        return Value(type, constant_text(type, value))
    except OverflowError:
        raise refuse(f"{value} as {type}", "it is too large for the type") from None


def integer(value: Value | int, dtype: DTypeClass = i32) -> Value:
    """A Python int as a value; a value stays what it is."""
    return value if isinstance(value, Value) else constant(dtype, value)


def join(*parts: Value) -> Value:
    """The lanes of all parts, one after the other, as one vector."""
    total = parts[0]
    if any(part.dtype is not total.dtype for part in parts):
        raise refuse(f"a join of {', '.join(str(p.type) for p in parts)}", "their types differ")
    if len(parts) == 1:
        return total
    if all(part.lanes == 1 for part in parts):
        to, builder = Type(total.dtype, len(parts)), current()
        text = "poison"
        for lane, part in enumerate(parts):
            text = builder.assign(f"insertelement {to.ir} {text}, {part.typed}, i32 {lane}")
        return Value(to, text)
    if len(parts) == 2 and parts[0].lanes == parts[1].lanes:
        return parts[0].shuffle(range(2 * total.lanes), parts[1])
    if len(parts) % 2 == 0 and all(part.lanes == total.lanes for part in parts):
        half = len(parts) // 2
        return join(join(*parts[:half]), join(*parts[half:]))
    return join(*(part[lane] for part in parts for lane in range(part.lanes)))


def constant_like(like: Value, value: Value | float) -> Value:
    """A Python number in the type of `like`."""
    return value if isinstance(value, Value) else constant(like.dtype, value, like.lanes)


def match_lanes(a: Value, b: Value) -> tuple[Value, Value]:
    """Both with the same number of lanes, a scalar spread over the other's."""
    lanes = max(a.lanes, b.lanes)
    return a.splat(lanes), b.splat(lanes)


def is_narrow(dtype: DTypeClass) -> bool:
    """Whether the target has no instructions for this float type and computes it in f32.

    Left to itself LLVM would call library functions for some of them, which nobody links.
    """
    return dtype is bf16 or (dtype is f16 and not current().target.has("f16"))


def _operands(a: Value, other: Value | float) -> tuple[Value, Value]:
    b = constant_like(a, other)
    if a.dtype.ir != b.dtype.ir or a.type.is_float != b.type.is_float:
        raise refuse(f"{a.type} with {b.type}", "convert one of them: .to(dtype)")
    return match_lanes(a, b)


def _arithmetic(operation: str, a: Value, other: Value | float) -> Value:
    a, b = _operands(a, other)
    if a.dtype is bf16:
        # Exact, since f32 has more than twice the digits; few chips compute in bf16 itself.
        return _arithmetic(operation, a.to(f32), b.to(f32)).to(bf16)
    name = ("f" if a.type.is_float else "") + operation
    return Value(a.type, current().assign(f"{name} {a.typed}, {b.ir}"))


def _integer(operation: str, a: Value, other: Value | int) -> Value:
    if a.type.is_float:
        raise refuse(f"{operation} of {a.type}", "this operation is for integers")
    if current().target.is_gpu and a.dtype.bits == 8 and a.lanes % 4 == 0:
        words = _bytes_as_words(operation, a, other)
        if words is not None:
            return words
    a, b = _operands(a, other)
    return Value(a.type, current().assign(f"{operation} {a.typed}, {b.ir}"))


def _bytes_as_words(operation: str, a: Value, other: Value | int) -> Value | None:
    """Bitwise operations and shifts on four bytes at a time; None for what needs each by itself.

    GPUs have no arithmetic of bytes: left to itself LLVM would take every byte out of its word.
    """
    if operation in ("and", "or", "xor"):
        b = constant_like(a, other)
        if b.dtype.bits != 8 or b.lanes != a.lanes:
            return None
        words = b.view(u32)
        return _integer(operation, a.view(u32), words).view(a.dtype)
    if operation not in ("shl", "lshr") or not isinstance(other, int) or not 0 <= other < 8:
        return None
    kept = (0xFF << other) & 0xFF if operation == "shl" else 0xFF >> other
    return (_integer(operation, a.view(u32), other) & (kept * 0x01010101)).view(a.dtype)


def _compare(relation: str, a: Value, other: Value | float) -> Value:
    a, b = _operands(a, other)
    if a.type.is_float:
        text = f"fcmp {'une' if relation == 'ne' else 'o' + relation} {a.typed}, {b.ir}"
    elif relation in ("eq", "ne"):
        text = f"icmp {relation} {a.typed}, {b.ir}"
    else:
        text = f"icmp {'s' if a.type.is_signed else 'u'}{relation} {a.typed}, {b.ir}"
    return Value(Type(boolean, a.lanes), current().assign(text))


def extend(index: Value) -> Value:
    """An index as 64 bits, by its sign."""
    if index.dtype.bits == 64:
        return index
    to = Type(i64, index.lanes)
    word = "sext" if index.type.is_signed else "zext"
    return Value(to, current().assign(f"{word} {index.typed} to {to.ir}"))


def _convert(x: Value, dtype: DTypeClass) -> Value:
    builder = current()
    if dtype is x.dtype:
        return x
    to = Type(dtype, x.lanes)
    a, b = x.dtype, dtype
    if a is bf16 and b is f32:
        # The upper half of a float: exact, and the same on every target.
        return (x.view(u16).to(u32) << 16).view(f32)
    if b is bf16 and a is f32:
        return _round_to_bf16(x)
    if a is bf16 or b is bf16 or {a, b} == {f16, f64}:
        # No CPU converts f64 to f16 at once; LLVM would call a library that nobody links.
        return x.to(f32).to(dtype)
    if a.kind == "float" and b.kind == "float":
        word = "fpext" if b.bits > a.bits else "fptrunc"
    elif a.kind == "float":
        word = "fptosi" if b.kind == "int" else "fptoui"
    elif b.kind == "float":
        word = "sitofp" if a.kind == "int" else "uitofp"
    elif a.bits == b.bits:
        return Value(to, x.ir)
    elif a.bits > b.bits:
        word = "trunc"
    else:
        word = "sext" if a.kind == "int" else "zext"
    return Value(to, builder.assign(f"{word} {x.typed} to {to.ir}"))


def _round_to_bf16(x: Value) -> Value:
    """To nearest, ties to even; a NaN stays one."""
    bits = x.view(u32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    nan = x.ne(x)
    builder = current()
    text = builder.assign(f"select {nan.typed}, {quiet.typed}, {rounded.typed}")
    return Value(rounded.type, text).to(u16).view(bf16)
