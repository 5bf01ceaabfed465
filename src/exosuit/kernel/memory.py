"""Memory of the kernel language: pointers, and the annotations of parameters that are memory.

A `Pointer` is indexed in elements: `p[i]` and `p[i] = v` with a scalar index, `p.load(i, lanes)`
for vectors. A `Lanes` index (from `each`) loads one element per lane, another vector of indices
gathers and scatters; in both cases lanes that are off are left alone.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from exosuit.kernel.builder import current, refuse
from exosuit.kernel.types import DType, DTypeClass, Type, constant_text, i64
from exosuit.kernel.value import Lanes, Value, constant, extend, integer

D_co = TypeVar("D_co", bound=DType, covariant=True)


class Pointer(Generic[D_co]):
    """Memory of elements of one type. `space`: 0 generic, 1 the device's, 3 shared, 5 private."""

    __slots__ = ("dtype", "ir", "space", "writable")

    def __init__(self, dtype: DTypeClass, ir: str, space: int = 0, writable: bool = True) -> None:
        self.dtype = dtype
        self.ir = ir
        self.space = space
        self.writable = writable

    @property
    def ir_type(self) -> str:
        return f"ptr addrspace({self.space})" if self.space else "ptr"

    def at(self, index: Value | int) -> Pointer[D_co]:
        """The pointer `index` elements further on."""
        if isinstance(index, int) and index == 0:
            return self
        address = self._address(index if isinstance(index, Value) else integer(index, i64))
        return Pointer(self.dtype, address, self.space, self.writable)

    def view(self, dtype: DTypeClass) -> Pointer[DType]:
        """The same address, seen as elements of another type."""
        return Pointer(dtype, self.ir, self.space, self.writable)

    def load(
        self,
        index: Value | int = 0,
        lanes: int = 1,
        align: int | None = None,
        streaming: bool = False,
    ) -> Value:
        """`lanes` neighbouring elements from `index` on; `align` in bytes if better known.

        Masks do not apply here, nor in `store`: they are for `p[i]`.

        streaming  the data is used once: caches need not keep it (a hint)
        """
        type = Type(self.dtype, lanes)
        place = self.at(index)
        alignment = align or max(self.dtype.bits // 8, 1)
        text = f"load {type.ir}, {place.ir_type} {place.ir}, align {alignment}"
        if streaming:
            text += f", !nontemporal {current().node('!{i32 1}')}"
        return Value(type, current().assign(text))

    def store(self, value: Value, index: Value | int = 0, align: int | None = None) -> None:
        """`value`'s lanes to neighbouring elements from `index` on."""
        self._check(value)
        place = self.at(index)
        alignment = align or max(self.dtype.bits // 8, 1)
        current().emit(f"store {value.typed}, {place.ir_type} {place.ir}, align {alignment}")

    def __getitem__(self, index: Value | int) -> Value:
        """One element; or one per lane for an index with lanes."""
        if isinstance(index, int) or index.lanes == 1:
            return self.load(index.first if isinstance(index, Lanes) else index)
        builder = current()
        if isinstance(index, Lanes) and builder.mask is None:
            return self.load(index.first, index.lanes)
        type = Type(self.dtype, index.lanes)
        align = str(self.dtype.bits // 8)
        mask = self._mask(index.lanes)
        zeros = (type.ir, "zeroinitializer")
        if isinstance(index, Lanes):
            place = self.at(index.first)
            name = f"llvm.masked.load.{type.suffix}.p{self.space}"
            text = builder.call(
                type.ir, name, (f"{self.ir_type} align {align}", place.ir), mask, zeros
            )
        else:
            vector = f"<{index.lanes} x {self.ir_type}>"
            places = self._address(index)
            name = f"llvm.masked.gather.{type.suffix}.v{index.lanes}p{self.space}"
            text = builder.call(type.ir, name, (f"{vector} align {align}", places), mask, zeros)
        return Value(type, text)

    def __setitem__(self, index: Value | int, value: Value | float) -> None:
        builder = current()
        lanes = 1 if isinstance(index, int) else index.lanes
        if not isinstance(value, Value):
            value = constant(self.dtype, value, lanes)
        self._check(value)
        if isinstance(index, int) or index.lanes == 1:
            self.store(value, index.first if isinstance(index, Lanes) else index)
            return
        value = value.splat(index.lanes)
        align = str(self.dtype.bits // 8)
        if isinstance(index, Lanes) and builder.mask is None:
            self.store(value, index.first)
        elif isinstance(index, Lanes):
            place = self.at(index.first)
            name = f"llvm.masked.store.{value.type.suffix}.p{self.space}"
            where = (f"{self.ir_type} align {align}", place.ir)
            builder.call("void", name, (value.type.ir, value.ir), where, self._mask(index.lanes))
        else:
            vector = f"<{index.lanes} x {self.ir_type}>"
            name = f"llvm.masked.scatter.{value.type.suffix}.v{index.lanes}p{self.space}"
            where = (f"{vector} align {align}", self._address(index))
            builder.call("void", name, (value.type.ir, value.ir), where, self._mask(index.lanes))

    def _check(self, value: Value) -> None:
        if not self.writable:
            raise refuse("a store through an In pointer", "declare the parameter Out or InOut")
        if value.dtype is not self.dtype:
            raise refuse(
                f"a store of {value.type} to memory of {self.dtype.__name__}",
                f"convert it first: .to({self.dtype.__name__})",
            )

    def _mask(self, lanes: int) -> tuple[str, str]:
        mask = current().mask
        if mask is not None and mask.lanes != lanes:
            raise refuse(
                f"{lanes} lanes of memory under a mask of {mask.lanes}",
                "index with as many lanes as the mask has, or load() and store() past it",
            )
        return (f"<{lanes} x i1>", mask.ir if mask is not None else "splat (i1 true)")

    def _address(self, index: Value) -> str:
        """Byte address of an element. Unsigned 32-bit byte offsets on GPUs select the cheap
        scalar-base form of loads (toolchain.md section 2); CPUs take 64 bits at once.
        """
        builder = current()
        size = self.dtype.bits // 8
        if isinstance(index, Lanes):
            index = Value(index.type, index.ir)
        wide = extend(index) if not builder.target.is_gpu or index.dtype.bits == 64 else index
        if size > 1:
            wide = Value(wide.type, builder.assign(f"mul {wide.type.ir} {wide.ir}, "
                         f"{constant_text(wide.type, size)}"))  # fmt: skip
        if wide.dtype.bits < 64:
            to = Type(i64, wide.lanes)
            wide = Value(to, builder.assign(f"zext {wide.typed} to {to.ir}"))
        return builder.assign(f"getelementptr i8, {self.ir_type} {self.ir}, {wide.typed}")


class In(Pointer[D_co]):
    """Annotation of a parameter: memory that the kernel only reads."""

    __slots__ = ()


class Out(Pointer[D_co]):
    """Annotation of a parameter: memory that the kernel writes and never reads."""

    __slots__ = ()


class InOut(Pointer[D_co]):
    """Annotation of a parameter: memory that the kernel reads and writes."""

    __slots__ = ()
