"""A wave while its code is translated: registers, the mask of active lanes, operands, results.

Registers live in the wave's state (see `state`); within a block their values are kept in `Lanes`,
written back at its end, before a routine runs, and before the mask changes. A kept vector is right
in the active lanes only: the others are taken from the state when it is written back, which costs
one blend per register and block, not one per instruction. What looks at inactive lanes asks for
`merged` registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.silicon.amd.isa.operands import (
    EXEC,
    FLOATS,
    INTEGERS,
    LITERAL,
    NULL,
    SCC,
    VECTOR,
    inline_float_bits,
    inline_integer,
)
from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.decode import Instruction
from exosuit.softcard.amd.isa.dpp import through_dpp, written_lanes
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.routines import index_of
from exosuit.softcard.translation.ir import WAVE, Function, Lanes, type_name

ALL = (1 << WAVE) - 1


@dataclass(frozen=True)
class FloatMode:
    """How a program wants floats to behave; fixed for a whole translation.

    flush_single, flush_other  denormals are zero, for f32, and for f16 and f64
    ieee          a signalling NaN makes min and max give a NaN
    clamp_nan     clamping turns NaN into 0 (DX10_CLAMP)
    """

    flush_single: bool = False
    flush_other: bool = False
    ieee: bool = True
    clamp_nan: bool = True


class Wave:
    """Registers and operands for the block under translation.

    STATE is the name of the pointer to the wave's state in the function being written.
    """

    STATE = "%state"

    def __init__(self, function: Function, mode: FloatMode) -> None:
        self.ir = function
        self.mode = mode
        self.instruction = Instruction(0, ())
        self.begin_block()

    def begin_block(self) -> None:
        self._scalars: dict[int, Lanes] = {}
        self._masks: dict[int, Lanes] = {}
        self._vectors: dict[int, Lanes] = {}
        self._scalars_changed: set[int] = set()
        self._vectors_changed: set[int] = set()
        self._scc: Lanes | None = None
        self._scc_changed = False
        self._active: Lanes | None = None

    # Memory of the state ------------------------------------------------------------------

    def place(self, offset: int) -> str:
        """Pointer to a place in the state."""
        return self.ir.address(self.STATE, offset)

    def load(self, kind: str, offset: int, count: int = 1, align: int = 4) -> Lanes:
        return self.ir.load(kind, count, self.place(offset), align)

    def store(self, value: Lanes, offset: int, align: int = 4) -> None:
        self.ir.store(value, self.place(offset), align)

    # Scalar registers ---------------------------------------------------------------------

    def scalar(self, code: int) -> Lanes:
        """A scalar register as an i32."""
        if code == NULL:
            return self.ir.constant("i32", 0)
        if code == SCC:
            return self.scc.to("i32")
        if code >= state.SCALAR_COUNT:
            raise Untranslated(f"scalar operand {code}")
        if code not in self._scalars:
            self._scalars[code] = self.load("i32", state.scalar_offset(code))
        return self._scalars[code]

    def set_scalar(self, code: int, value: Lanes) -> None:
        """Write an i32, or an i64 to a pair."""
        if code == NULL:
            return
        if value.kind == "i64":
            self.set_scalar(code, value.to("i32"))
            self.set_scalar(code + 1, (value >> 32).to("i32"))
            return
        if code == EXEC:
            self._write_vectors()
            self._active = None
        self._scalars[code] = value
        self._scalars_changed.add(code)
        self._masks.pop(code, None)

    def scalar_pair(self, code: int) -> Lanes:
        if code == NULL:
            return self.ir.constant("i64", 0)
        low, high = self.scalar(code).to("i64"), self.scalar(code + 1).to("i64")
        return low | (high << 32)

    @property
    def scc(self) -> Lanes:
        """The condition bit, an i1."""
        if self._scc is None:
            self._scc = self.load("i32", state.SCC).to("i1")
        return self._scc

    @scc.setter
    def scc(self, value: Lanes) -> None:
        self._scc = value
        self._scc_changed = True

    # Masks --------------------------------------------------------------------------------

    @property
    def exec(self) -> Lanes:
        return self.scalar(EXEC)

    @property
    def active(self) -> Lanes:
        """An i1 per lane: whether it is on."""
        if self._active is None:
            self._active = self.exec.view("i1", WAVE)
        return self._active

    def mask(self, code: int) -> Lanes:
        """A scalar operand as an i1 per lane; in lanes that are off it may be anything."""
        if code not in self._masks:
            self._masks[code] = self.source(code, 32, 1).view("i1", WAVE)
        return self._masks[code]

    def set_mask(self, code: int, mask: Lanes) -> None:
        """Write one bit per lane; lanes that are off give 0."""
        if code == NULL:
            return
        self.set_scalar(code, mask.view("i32", 1) & self.exec)
        if code != EXEC:
            self._masks[code] = mask

    # Vector registers ---------------------------------------------------------------------

    def vector(self, number: int) -> Lanes:
        """A vector register, i32 per lane; right in the active lanes."""
        number %= state.VECTOR_COUNT
        if number not in self._vectors:
            offset = state.vector_offset(number)
            self._vectors[number] = self.load("i32", offset, WAVE, align=64)
        return self._vectors[number]

    def merged(self, number: int) -> Lanes:
        """A vector register that is right in all lanes."""
        number %= state.VECTOR_COUNT
        if number in self._vectors_changed:
            self._write_vector(number)
        return self.vector(number)

    def set_vector(self, number: int, value: Lanes, where: Lanes | None = None) -> None:
        """Write i32 per lane, or i64 per lane to a pair; only to lanes that are on, and `where`."""
        if value.kind == "i64":
            self.set_vector(number, value.to("i32"), where)
            self.set_vector(number + 1, (value >> 32).to("i32"), where)
            return
        number %= state.VECTOR_COUNT
        if where is not None:
            value = where.select(value, self.vector(number))
        self._vectors[number] = value
        self._vectors_changed.add(number)

    def vector_pair(self, number: int) -> Lanes:
        low, high = self.vector(number).to("i64"), self.vector(number + 1).to("i64")
        return low | (high << 32)

    def vector_place(self, number: int) -> str:
        """Pointer to a vector register in the state; see `settle`."""
        return self.place(state.vector_offset(number))

    def _write_vector(self, number: int) -> None:
        offset = state.vector_offset(number)
        value = self._vectors[number]
        if self.exec.number != -1:
            value = self.active.select(value, self.load("i32", offset, WAVE, align=64))
        self.store(value, offset, align=64)
        self._vectors[number] = value
        self._vectors_changed.discard(number)

    def _write_vectors(self) -> None:
        for number in sorted(self._vectors_changed):
            self._write_vector(number)

    # Leaving the kept values --------------------------------------------------------------

    def settle(self) -> None:
        """Write vectors back and forget them: a routine is about to read and write the state."""
        self._write_vectors()
        self._vectors.clear()

    def forget_scalars(self, codes: range) -> None:
        """A routine wrote these."""
        for code in codes:
            self._scalars.pop(code, None)
            self._masks.pop(code, None)
            self._scalars_changed.discard(code)

    def end_block(self) -> None:
        """Everything back into the state."""
        self._write_vectors()
        for code in sorted(self._scalars_changed):
            self.store(self._scalars[code], state.scalar_offset(code))
        if self._scc_changed and self._scc is not None:
            self.store(self._scc.to("i32"), state.SCC)
        self._scalars_changed.clear()
        self._scc_changed = False

    # Routines -----------------------------------------------------------------------------

    def routine(self, name: str, *operands: Lanes | str, result: Lanes | None = None) -> Lanes:
        """Call a routine of `routines`; a `str` operand is a pointer. Gives a value like `result`.

        Vectors that a routine reads or writes in the state must have been settled.
        """
        table = self.load("i64", state.ROUTINES, align=8)
        pointer = self.ir.assign(f"inttoptr {table.typed} to ptr")
        place = self.ir.address(pointer, 8 * index_of(name))
        target = self.ir.assign(f"load ptr, ptr {place}, align 8")
        shown = ", ".join(o.typed if isinstance(o, Lanes) else f"ptr {o}" for o in operands)
        if result is None:
            self.ir.emit(f"call void {target}({shown})")
            return self.ir.constant("i32", 0)
        to = type_name(result.kind, result.count)
        return self.ir.value(result.kind, result.count, f"call {to} {target}({shown})")

    # Sources ------------------------------------------------------------------------------

    def source(self, code: int, width: int, count: int, signed: bool = False) -> Lanes:
        """The bits of a source operand that is no vector register, as an integer of `width`."""
        kind = f"i{width}"
        if code in INTEGERS:
            value = self.ir.constant(kind, inline_integer(code))
        elif code in FLOATS:
            value = self.ir.constant(kind, inline_float_bits(code, width))
        elif code == LITERAL:
            literal = self.instruction.literal
            if signed and literal >> 31:
                literal -= 1 << 32
            value = self.ir.constant(kind, literal)
        elif width == 64:
            value = self.scalar_pair(code)
        else:
            value = self.scalar(code).to(kind)
        return value.splat(count) if count > 1 else value

    def operand(self, index: int, kind: str, signalling: bool = False) -> Lanes:
        """Source `index` of the instruction as lanes of a kind, its modifiers applied.

        Kinds are `ir`'s, with these differences: "half" comes as the equal float; "mask" is an i1
        per lane from a scalar register; "scalar" is an i32 of the wave. `signalling` keeps halves'
        signalling NaNs what they are.
        """
        made = self.instruction
        code = made.sources[index]
        if kind == "mask":
            return self.mask(code)
        if kind == "scalar":
            return self.source(code, 32, 1)
        width = {"half": 16, "i16": 16, "float": 32, "i32": 32}.get(kind, 64)
        bits = self._operand_bits(index, code, width, kind)
        if index == 0 and made.dpp is not None:
            bits = through_dpp(self, bits)
        if kind.startswith("i"):
            return bits
        return self._modified(self.as_float(bits, kind, signalling), index)

    def _operand_bits(self, index: int, code: int, width: int, kind: str) -> Lanes:
        if code >= VECTOR:
            number = code - VECTOR
            if width == 64:
                return self.vector_pair(number)
            if width == 32:
                return self.vector(number)
            if self.instruction.table in ("VOP1", "VOP2", "VOPC"):
                high, number = number >> 7, number & 127
            else:
                high = self.instruction.op_sel >> index & 1
            word = self.vector(number)
            return ((word >> 16) if high else word).to("i16")
        if kind == "double" and code == LITERAL:
            return self.ir.constant("i64", self.instruction.literal << 32).splat()
        if width == 16 and code < state.SCALAR_COUNT and self.instruction.op_sel >> index & 1:
            return (self.scalar(code) >> 16).to("i16").splat()
        return self.source(code, width, WAVE)

    def as_float(self, bits: Lanes, kind: str, signalling: bool = False) -> Lanes:
        """Bits as a float, denormals flushed if the program wants it; halves as floats."""
        value = bits.view(kind)
        if kind == "half":
            value = value.to("float")
            if signalling:  # the conversion has made them quiet
                loud = (bits & 0x200).eq(0) & value.compare("uno", value)
                value = loud.select(value.view("i32") ^ (1 << 22), value.view("i32")).view("float")
        return self.flushed(value, kind)

    def flushed(self, value: Lanes, kind: str) -> Lanes:
        """Denormals of `kind` as zero of their sign, if the program wants it."""
        if not (self.mode.flush_single if kind == "float" else self.mode.flush_other):
            return value
        smallest = {"half": 2.0**-14, "float": 2.0**-126, "double": 2.0**-1022}[kind]
        small = value.absolute().compare("olt", smallest)
        return small.select(value.like(0).call("copysign", value), value)

    def _modified(self, value: Lanes, index: int) -> Lanes:
        if self.instruction.abs >> index & 1:
            value = value.absolute()
        if self.instruction.neg >> index & 1:
            value = -value
        return value

    # Results ------------------------------------------------------------------------------

    def old(self, kind: str) -> Lanes:
        """What the destination holds, as an operand of that kind."""
        number = self.instruction.vdst
        if kind in ("half", "i16"):
            high, number = self._half_of_result()
            word = self.vector(number)
            bits = ((word >> 16) if high else word).to("i16")
        else:
            bits = self.vector_pair(number) if kind in ("i64", "double") else self.vector(number)
        return bits if kind.startswith("i") else self.as_float(bits, kind)

    def write(self, kind: str, value: Lanes) -> None:
        """The instruction's vector result; halves come as floats and are rounded to even."""
        if kind in ("half", "float", "double"):
            value = self._finished(value, kind)
        where = self.writes()
        if kind in ("half", "i16"):
            bits = value.to("half").view("i16") if kind == "half" else value
            high, number = self._half_of_result()
            self.set_half(number, high, bits, where)
        else:
            self.set_vector(self.instruction.vdst, value.view(f"i{value.bits}"), where)

    def set_half(self, number: int, high: int, bits: Lanes, where: Lanes | None = None) -> None:
        """Write one half of a register's lanes; the other stays."""
        old, new = self.vector(number), bits.to("i32")
        if high:
            self.set_vector(number, (old & 0xFFFF) | (new << 16), where)
        else:
            self.set_vector(number, (old & 0xFFFF0000) | new, where)

    def writes(self) -> Lanes | None:
        """Lanes that DPP lets write; None for all."""
        if self.instruction.dpp is None:
            return None
        return written_lanes(self)

    def _half_of_result(self) -> tuple[int, int]:
        number = self.instruction.vdst
        if self.instruction.table in ("VOP1", "VOP2", "VOPC"):
            return number >> 7, number & 127
        return self.instruction.op_sel >> 3 & 1, number

    def _finished(self, value: Lanes, kind: str) -> Lanes:
        if self.instruction.omod:
            value = value * (1.0, 2.0, 4.0, 0.5)[self.instruction.omod]
        value = self.flushed(value, kind)
        if self.instruction.clamp:
            value = self.clamped(value)
        return value

    def clamped(self, value: Lanes) -> Lanes:
        """A float within 0 and 1; NaN becomes 0 if the program wants it."""
        low = value.compare("ogt" if self.mode.clamp_nan else "ugt", 0.0).select(value, 0.0)
        return low.compare("ogt", 1.0).select(low.like(1.0), low)
