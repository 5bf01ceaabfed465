"""What x86 and AArch64 share: a workgroup is one call, a wave is one vector.

The compiled function is `void kernel(arguments, first, last)`: a block of eight-byte arguments and
the range of workgroups to run, so that one call serves a whole chunk of a step.
"""

from __future__ import annotations

from exosuit.kernel.builder import Builder, current
from exosuit.kernel.lowering.base import Lowering
from exosuit.kernel.types import DType, DTypeClass, Type, i32
from exosuit.kernel.value import Lanes, Pointer, Value, constant_like, integer
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

    def shared(self, dtype: DTypeClass, count: int) -> Pointer[DType]:
        builder = current()
        builder.shared_bytes += count * dtype.bits // 8
        return Pointer(dtype, builder.allocate(f"[{count} x {dtype.ir}]"))

    def barrier(self) -> None:
        """One thread runs the whole workgroup in order, so there is nobody to wait for."""

    def wave_reduce(self, operation: str, x: Value) -> Value:
        return x.reduce(operation)

    def group_reduce(self, operation: str, x: Value) -> Value:
        return x.reduce(operation)

    def shuffle_xor(self, x: Value, mask: int) -> Value:
        return x.shuffle([lane ^ mask for lane in range(x.lanes)])

    def atomic_add(self, pointer: Pointer[DType], index: Value | int, value: Value) -> Value:
        place = pointer.at(index.first if isinstance(index, Lanes) else index)
        operation = "fadd" if value.type.is_float else "add"
        text = f"atomicrmw {operation} ptr {place.ir}, {value.typed} monotonic"
        return Value(value.type, current().assign(text))

    def mma(self, a: Value, b: Value, c: Value) -> Value:
        current().require("mma", "a matrix-unit operation")
        raise AssertionError("no CPU target has the capability")

    def prefetch(self, pointer: Pointer[DType], keep: bool) -> None:
        # Locality 3 is "every cache", 0 is "read once" (x86: prefetcht0 and prefetchnta).
        arguments = [("ptr", pointer.ir), *(("i32 immarg", n) for n in ("0", "30"[not keep], "1"))]
        current().call("void", "llvm.prefetch.p0", *arguments)

    def exp(self, x: Value) -> Value:
        from exosuit.kernel.lowering import mathematics

        return mathematics.exp(x)

    def rsqrt(self, x: Value) -> Value:
        from exosuit.kernel.language import sqrt

        return constant_like(x, 1.0) / sqrt(x)

    def sincos(self, x: Value) -> tuple[Value, Value]:
        from exosuit.kernel.lowering import mathematics

        return mathematics.sincos(x)
