"""What AMD and NVIDIA share: a workgroup is lanes in waves of 32, a value is one lane's.

The compiled function takes its arguments as eight-byte slots, numbers too, so that every driver
fills one and the same argument block. Memory behind an `In` parameter is `noalias readonly`: a
launch must not write it through another parameter (declare both `InOut` for work in place).

Reductions go by butterflies of `shuffle_xor`, so every lane ends with the same bits; a workgroup
adds one exchange through shared memory, whose trailing barrier lets the next one reuse it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import ClassVar

from exosuit.errors import CompileFailed
from exosuit.kernel.builder import Builder, current, refuse
from exosuit.kernel.language import maximum, minimum, select, when
from exosuit.kernel.lowering import mathematics
from exosuit.kernel.lowering.base import ATOMIC_WORDS, Lowering
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass, boolean, i8, i32, u8, u16
from exosuit.kernel.value import Value, constant, constant_like, integer, join
from exosuit.program import Access, Parameter

WAVE = 32
LOG2_E = 1.4426950408889634


class Gpu(Lowering):
    """Needs from its children the ids, the shuffle, the barrier, dots, matrices, and exp2."""

    calling_convention: ClassVar[str]
    device_scope: ClassVar[str]
    group_scope: ClassVar[str]
    """Who must see an atomic operation as one: LLVM's names for the device and the workgroup."""

    # The function -------------------------------------------------------------------------

    def arguments(self, parameters: tuple[Parameter, ...]) -> list[str]:
        builder = current()
        if builder.group_size % WAVE or not WAVE <= builder.group_size <= 1024:
            raise CompileFailed(
                f"kernel {builder.name!r}: a workgroup of {builder.group_size} lanes",
                cause=f"GPUs run whole waves: a multiple of {WAVE}, at most 1024",
                next="correct group_size in @kernel(...)",
            )
        names: list[str] = []
        for slot, parameter in enumerate(parameters):
            name = f"%argument{slot}"
            if parameter.access is Access.VALUE:
                name = _from_slot(builder, name, parameter.dtype)
            names.append(name)
        return names

    def finish(self, builder: Builder, parameters: tuple[Parameter, ...]) -> str:
        builder.emit("ret void")
        signature = ", ".join(_declaration(k, p) for k, p in enumerate(parameters))
        flags = self.module_flags(builder)
        return "\n".join([
            f'target triple = "{builder.target.triple}"',
            *builder.globals,
            f"define {self.calling_convention} void @{builder.name}({signature}) #0 {{",
            "entry:",
            builder.body(),
            "}",
            *builder.declarations.values(),
            f"attributes #0 = {{ nounwind {self.attributes(builder.group_size)} }}",
            *builder.metadata,
            *flags,
            "",
        ])  # fmt: skip

    @abstractmethod
    def attributes(self, group_size: int) -> str:
        """Of the entry, as LLVM writes them."""

    def module_flags(self, builder: Builder) -> list[str]:
        del builder
        return []

    # The workgroup ------------------------------------------------------------------------

    def wave_lane(self) -> Value:
        return self.lane() & (WAVE - 1)

    def wave(self) -> Value:
        return integer(0) if current().group_size == WAVE else self.lane() >> 5

    @contextmanager
    def leader(self) -> Generator[None]:
        with when(self.lane().eq(0)):
            yield

    def shared(self, dtype: DTypeClass, count: int) -> Pointer[DType]:
        builder = current()
        return _shared_array(f"{builder.name}.{builder.fresh('shared')}", dtype, count)

    def wave_reduce(self, operation: str, x: Value) -> Value:
        total = x.reduce(operation)
        for mask in (1, 2, 4, 8, 16):
            total = _combine(operation, total, self.shuffle_xor(total, mask))
        return total

    def group_reduce(self, operation: str, x: Value) -> Value:
        total = self.wave_reduce(operation, x)
        builder = current()
        waves = builder.group_size // WAVE
        if waves == 1:
            return total
        # One array per type serves every reduction of the kernel; reading ends with a barrier.
        partial = _shared_array(
            f"{builder.name}.partial.{total.dtype.__name__}", total.dtype, waves
        )
        wave_lane = self.wave_lane()
        with when(wave_lane.eq(0)):
            partial[self.wave()] = total
        self.barrier(memory=False)
        # Waves may be any number; surplus lanes read the first partial sum and are neutralised.
        inside = wave_lane < waves
        read = partial[select(inside, wave_lane, 0)]
        if waves < WAVE and operation == "add":
            read = select(inside, read, constant_like(read, 0))
        self.barrier(memory=False)
        return self.wave_reduce(operation, read)

    def shuffle_xor(self, x: Value, mask: int) -> Value:
        if not 0 <= mask < WAVE:
            raise refuse(f"shuffle_xor by {mask}", f"a wave has {WAVE} lanes")
        return x if mask == 0 else by_words(x, lambda word: self.shuffle_word(word, mask))

    @abstractmethod
    def shuffle_word(self, x: Value, mask: int) -> Value:
        """`shuffle_xor` of one i32."""

    # Atomics ------------------------------------------------------------------------------

    def atomic(
        self, operation: str, pointer: Pointer[DType], index: Value | int, value: Value
    ) -> Value:
        place = pointer.at(index)
        word = ATOMIC_WORDS[operation][value.dtype.kind]
        text = f"atomicrmw {word} {place.ir_type} {place.ir}, {value.typed} {self._order(place)}"
        return Value(value.type, current().assign(text + self.atomic_metadata()))

    def compare_exchange(
        self, pointer: Pointer[DType], index: Value | int, expected: Value, new: Value
    ) -> Value:
        place, builder = pointer.at(index), current()
        order = f"{self._order(place)} monotonic"
        pair = builder.assign(
            f"cmpxchg {place.ir_type} {place.ir}, {expected.typed}, {new.typed} {order}"
        )
        result = f"{{ {expected.type.ir}, i1 }}"
        return Value(expected.type, builder.assign(f"extractvalue {result} {pair}, 0"))

    def atomic_metadata(self) -> str:
        return ""

    def _order(self, place: Pointer[DType]) -> str:
        scope = self.group_scope if place.space == 3 else self.device_scope
        return f'syncscope("{scope}") monotonic'

    # Dots ---------------------------------------------------------------------------------

    def dot4(self, a: Value, b: Value, accumulator: Value) -> Value:
        words_a, words_b = a.view(i32), b.view(i32)
        return join(*(
            self.dot4_word(words_a[k], words_b[k], accumulator[k], a.type.is_signed,
                           b.type.is_signed)
            for k in range(accumulator.lanes)
        ))  # fmt: skip

    @abstractmethod
    def dot4_word(
        self, a: Value, b: Value, total: Value, a_signed: bool, b_signed: bool
    ) -> Value: ...

    def lookup16(self, table: list[int], index: Value) -> Value:
        """Four bytes at a time by the byte-permute instruction."""
        lanes = index.lanes
        padded = index
        while padded.lanes % 4:
            padded = join(*(padded[k] for k in range(padded.lanes)), constant(index.dtype, 0))
        entries = b"".join((x & 0xFF).to_bytes(1, "little") for x in table)
        words = [constant(i32, int.from_bytes(entries[k : k + 4], "little", signed=True))
                 for k in range(0, 16, 4)]  # fmt: skip
        packed = padded.view(i32)
        found = join(*(self.lookup_word(words, packed[k]) for k in range(packed.lanes)))
        result = found.view(padded.dtype)
        return (result if padded.lanes == lanes else result.shuffle(range(lanes))).view(i8)

    @abstractmethod
    def lookup_word(self, table: list[Value], index: Value) -> Value:
        """Four table bytes, as one i32, for the four bytes of `index`."""

    # Mathematics --------------------------------------------------------------------------

    def exp(self, x: Value) -> Value:
        """The instruction is 2**x; the product with log2(e) costs |x| * 6e-8 of relative error."""
        return by_lanes(x * LOG2_E, self.exp2)

    def rsqrt(self, x: Value) -> Value:
        return by_lanes(x, self.rsqrt_lane)

    def reciprocal(self, x: Value) -> Value:
        return by_lanes(x, self.reciprocal_lane)

    def sincos(self, x: Value) -> tuple[Value, Value]:
        # The instructions lose all digits at the angles that long contexts reach.
        return mathematics.sincos(x)

    @abstractmethod
    def exp2(self, x: Value) -> Value: ...

    @abstractmethod
    def rsqrt_lane(self, x: Value) -> Value: ...

    @abstractmethod
    def reciprocal_lane(self, x: Value) -> Value: ...


def by_lanes(x: Value, function: Callable[[Value], Value]) -> Value:
    """A scalar instruction on every lane of a small vector."""
    return function(x) if x.lanes == 1 else join(*(function(x[k]) for k in range(x.lanes)))


def by_words(x: Value, function: Callable[[Value], Value]) -> Value:
    """An instruction that moves 32 bits, on a value of any type."""
    if x.type.bits % 32 == 0:
        return by_lanes(x.view(i32), function).view(x.dtype)
    if x.lanes > 1:
        return by_lanes(x, lambda lane: by_words(lane, function))
    bits = {1: boolean, 8: u8, 16: u16}[x.dtype.bits]
    return function(x.view(bits).to(i32)).to(bits).view(x.dtype)


def call_scalar(name: str, x: Value) -> Value:
    """An intrinsic of one operand and the same type."""
    return Value(x.type, current().call(x.type.ir, name, (x.type.ir, x.ir)))


def _combine(operation: str, a: Value, b: Value) -> Value:
    if operation == "add":
        return a + b
    return maximum(a, b) if operation == "max" else minimum(a, b)


def _shared_array(name: str, dtype: DTypeClass, count: int) -> Pointer[DType]:
    """Workgroup memory by name; the same name is the same memory."""
    builder = current()
    text = f"@{name} = internal addrspace(3) global [{count} x {dtype.ir}] poison, align 16"
    if text not in builder.globals:
        builder.globals.append(text)
        builder.shared_bytes += -(-count * dtype.bits // 8 // 16) * 16
    return Pointer(dtype, f"@{name}", 3)


def _declaration(slot: int, parameter: Parameter) -> str:
    if parameter.access is Access.VALUE:
        return f"i64 %argument{slot}"
    promise = "noalias readonly " if parameter.access is Access.IN else ""
    return f"ptr addrspace(1) {promise}nofree align 16 %argument{slot}"


def _from_slot(builder: Builder, slot: str, dtype: str) -> str:
    """A number out of the low bytes of its eight."""
    if dtype in ("i64", "u64"):
        return slot
    low = builder.assign(f"trunc i64 {slot} to i32")
    if dtype in ("i32", "u32"):
        return low
    if dtype == "f32":
        return builder.assign(f"bitcast i32 {low} to float")
    raise CompileFailed(
        f"kernel {builder.name!r}: a Scalar[{dtype}] parameter",
        cause="numbers are passed as i32, u32, i64, u64 or f32",
        next="pass it as one of these and convert it in the kernel",
    )
