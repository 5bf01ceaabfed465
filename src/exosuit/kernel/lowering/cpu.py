"""What x86 and AArch64 share: a workgroup is one call, a wave is one vector.

The compiled function is `void kernel(arguments, first, last)`: a block of eight-byte arguments and
the range of workgroups to run, so that one call serves a whole chunk of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from exosuit.kernel.builder import Builder, current, refuse
from exosuit.kernel.lowering.base import ATOMIC_WORDS, Lowering
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass, Type, i32
from exosuit.kernel.value import Lanes, Value, Variable, constant, constant_like, integer, join
from exosuit.program import Access, Parameter

_VALUE_TYPES = {"i32": "i32", "u32": "i32", "i64": "i64", "u64": "i64", "f32": "float"}


class Cpu(Lowering):
    """Needs from its children only the dots, the table lookup and the prefetch."""

    def arguments(self, parameters: tuple[Parameter, ...]) -> list[str]:
        builder = current()
        names: list[str] = []
        for slot, parameter in enumerate(parameters):
            place, name = "%" + builder.fresh("slot"), "%" + builder.fresh("argument")
            kind = "ptr" if parameter.access is not Access.VALUE else _VALUE_TYPES[parameter.dtype]
            builder.entry_line(f"{place} = getelementptr i8, ptr %arguments, i64 {8 * slot}")
            builder.entry_line(f"{name} = load {kind}, ptr {place}, align 8")
            names.append(name)
        builder.emit("br label %groups")
        builder.begin_block("groups")
        group = "%group"
        builder.emit(f"{group} = phi i64 [ %first, %start ], [ %next_group, %next ]")
        builder.emit("%more = icmp slt i64 %group, %last")
        builder.emit("br i1 %more, label %work, label %done")
        builder.begin_block("work")
        builder.group_id = builder.assign(f"trunc i64 {group} to i32")
        return names

    def finish(self, builder: Builder, parameters: tuple[Parameter, ...]) -> str:
        del parameters
        builder.jump("next")
        builder.begin_block("next")
        builder.emit("%next_group = add i64 %group, 1")
        builder.jump("groups")
        builder.begin_block("done")
        builder.emit("ret void")
        signature = "(ptr noalias %arguments, i64 %first, i64 %last)"
        return "\n".join([
            f'target triple = "{builder.target.triple}"',
            *builder.globals,
            f"define void @{builder.name}{signature} nounwind {{",
            "entry:",
            builder.body(),
            "}",
            *builder.declarations.values(),
            *builder.metadata,
            "",
        ])  # fmt: skip

    def group(self) -> Value:
        return Value(Type(i32), current().group_id)

    def lane(self) -> Value:
        return Lanes(integer(0), current().target.lanes)

    def wave(self) -> Value:
        return integer(0)

    def wave_lane(self) -> Value:
        return self.lane()

    def leader(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shared(self, dtype: DTypeClass, count: int) -> Pointer[DType]:
        builder = current()
        builder.shared_bytes += count * dtype.bits // 8
        return Pointer(dtype, builder.allocate(f"[{count} x {dtype.ir}]"))

    def barrier(self, memory: bool = False) -> None:
        """One thread runs the whole workgroup in order, so there is nobody to wait for."""

    def wave_barrier(self) -> None:
        """Nor within its one wave."""

    def keep_order(self) -> None:
        """The few passes that CPU code goes through move little."""

    def wave_reduce(self, operation: str, x: Value) -> Value:
        return x.reduce(operation)

    def group_reduce(self, operation: str, x: Value) -> Value:
        return x.reduce(operation)

    def shuffle_xor(self, x: Value, mask: int) -> Value:
        if not 0 <= mask < x.lanes:
            raise refuse(f"shuffle_xor by {mask}", f"a wave of this target has {x.lanes} lanes")
        return x.shuffle([lane ^ mask for lane in range(x.lanes)])

    def atomic(
        self, operation: str, pointer: Pointer[DType], index: Value | int, value: Value
    ) -> Value:
        word = ATOMIC_WORDS[operation][value.dtype.kind]

        def one(place: Pointer[DType], x: Value) -> Value:
            text = f"atomicrmw {word} ptr {place.ir}, {x.typed} monotonic"
            return Value(x.type, current().assign(text))

        return _lane_by_lane(one, pointer, index, value)

    def compare_exchange(
        self, pointer: Pointer[DType], index: Value | int, expected: Value, new: Value
    ) -> Value:
        place, builder = pointer.at(index), current()
        operands = f"{expected.typed}, {new.typed} monotonic monotonic"
        pair = builder.assign(f"cmpxchg ptr {place.ir}, {operands}")
        result = f"{{ {expected.type.ir}, i1 }}"
        return Value(expected.type, builder.assign(f"extractvalue {result} {pair}, 0"))

    def prefetch(self, pointer: Pointer[DType], keep: bool) -> None:
        # Locality 2 is the second cache, which has more misses under way at once than the first
        # (Zen 4, blocks of 8 KiB: 20 against 12 GB/s); 0 is "read once" (prefetcht1, prefetchnta).
        arguments = [("ptr", pointer.ir), *(("i32 immarg", n) for n in ("0", "20"[not keep], "1"))]
        current().call("void", "llvm.prefetch.p0", *arguments)

    def exp(self, x: Value) -> Value:
        from exosuit.kernel.lowering import mathematics

        return mathematics.exp(x)

    def rsqrt(self, x: Value) -> Value:
        from exosuit.kernel.language import sqrt

        return constant_like(x, 1.0) / sqrt(x)

    def reciprocal(self, x: Value) -> Value:
        return constant_like(x, 1.0) / x

    def sincos(self, x: Value) -> tuple[Value, Value]:
        from exosuit.kernel.lowering import mathematics

        return mathematics.sincos(x)


def dot4_by_widening(a: Value, b: Value, accumulator: Value) -> Value:
    """Exact for bytes of any sign and any number of lanes; LLVM picks the instructions."""
    products = a.to(i32) * b.to(i32)
    for k in range(4):
        accumulator = accumulator + products.shuffle(range(k, a.lanes, 4))
    return accumulator


def _lane_by_lane(
    operation: Callable[[Pointer[DType], Value], Value],
    pointer: Pointer[DType],
    index: Value | int,
    value: Value,
) -> Value:
    """An operation on one place in memory, for each lane that is on; 0 in the others."""
    from exosuit.kernel.language import when

    lanes = max(value.lanes, 1 if isinstance(index, int) else index.lanes)
    mask = current().mask
    if lanes == 1:
        return operation(pointer.at(index), value)
    results: list[Value] = []
    for k in range(lanes):
        place = pointer.at(index if isinstance(index, int) else index[k])
        if mask is None:
            results.append(operation(place, value[k]))
            continue
        found = Variable(constant(value.dtype, 0))
        with when(mask[k]):
            found.value = operation(place, value[k])
        results.append(found.value)
    return join(*results)
