"""A warp while its program is translated: masks, operands, results, and faults.

Inside a block registers are IR values. What another block may read is written back at the end of
the block, for the lanes that are on; everything else never leaves the block. Lanes that are off
compute too, so whoever touches memory or other lanes must ask for the mask.
"""

from __future__ import annotations

import re
import struct

from exosuit.softcard.nvidia.ptx import state
from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.parse import Entry, Instruction
from exosuit.softcard.nvidia.ptx.state import WARP, Layout
from exosuit.softcard.translation.ir import Function, Lanes

SCRATCH = 4
"""Pieces of scratch that the function must provide: %scratch0 and so on, 512 bytes each."""
INTEGER = {1: "i1", 8: "i8", 16: "i16", 32: "i32", 64: "i64"}
FLOAT = {16: "half", 32: "float", 64: "double"}
_SPECIAL = {
    "%tid.x": state.SPECIAL, "%tid.y": state.SPECIAL + 128, "%tid.z": state.SPECIAL + 256,
}  # fmt: skip
_UNIFORM = {
    "%ctaid.x": state.GROUP, "%ctaid.y": state.GROUP + 4, "%ctaid.z": state.GROUP + 8,
    "%nctaid.x": state.GROUPS, "%nctaid.y": state.GROUPS + 4, "%nctaid.z": state.GROUPS + 8,
    "%ntid.x": state.LANES, "%ntid.y": state.LANES + 4, "%ntid.z": state.LANES + 8,
    "%warpid": state.WARP_NUMBER,
}  # fmt: skip
_SYMBOL = re.compile(r"([\w$.%]+?)(?:\+(-?\d+)|(-\d+))?")


class Warp:
    """Registers and masks of the function that is being written."""

    def __init__(self, function: Function, entry: Entry, layout: Layout) -> None:
        self.ir = function
        self.entry = entry
        self.layout = layout
        self.instruction = Instruction("", ("",), (), 0)
        self._known: dict[str, Lanes] = {}
        self._changed: dict[str, None] = {}
        self._running: Lanes | None = None
        self._scratch = 0
        self.used: dict[str, str] = {}
        """Texts of the routines that the module needs, by name."""

    # Blocks -------------------------------------------------------------------------------

    def begin_block(self) -> None:
        self._known.clear()
        self._changed.clear()
        self._running = None

    def end_block(self) -> None:
        """Write back what others may read, in the lanes that are on."""
        for name in self._changed:
            place = self.layout.registers.get(name)
            if place is None:
                continue
            value = self._known[name]
            if value.kind == "i1":
                old = self.load("i32", place)
                new = value.view("i32", 1)
                running = self.running
                self.store((new & running) | (old & ~running), place)
            else:
                old = self.load(value.kind, place, WARP, 64)
                self.store(self.on.select(value, old), place, 64)
        self._changed.clear()

    @property
    def running(self) -> Lanes:
        """i32, a bit for each lane that runs this block."""
        if self._running is None:
            self._running = self.load("i32", state.RUNNING)
        return self._running

    @property
    def on(self) -> Lanes:
        """The same as a vector of i1."""
        if "on" not in self._known:
            self._known["on"] = self.running.view("i1", WARP)
        return self._known["on"]

    @property
    def active(self) -> Lanes:
        """i32 mask of the lanes in which the current instruction takes effect."""
        guard = self.instruction.guard
        return self.running if not guard else self.running & self.predicate(guard).view("i32", 1)

    # Memory of the function ---------------------------------------------------------------

    def begin(self, made: Instruction) -> None:
        """Go on to an instruction."""
        self.instruction = made
        self._scratch = 0

    def scratch(self) -> str:
        """Room for one value of up to 16 bytes per lane, until the next instruction."""
        self._scratch += 1
        assert self._scratch <= SCRATCH, str(self.instruction)
        return f"%scratch{self._scratch - 1}"

    # State --------------------------------------------------------------------------------

    def load(self, kind: str, place: int, count: int = 1, align: int = 4) -> Lanes:
        return self.ir.load(kind, count, self.ir.address("%state", place), align)

    def store(self, value: Lanes, place: int, align: int = 4) -> None:
        self.ir.store(value, self.ir.address("%state", place), align)

    def fault(self, kind: int, condition: Lanes | None = None) -> None:
        """Return with a fault, if `condition` (one i1) holds."""
        ir = self.ir
        bad, good = f"bad.{ir.name()}", f"good.{ir.name()}"
        if condition is not None:
            ir.branch(condition, bad, good)
            ir.label(bad)
        self.store(ir.constant("i64", kind), state.FAULT, 8)
        self.store(ir.constant("i32", self.instruction.line), state.FAULT_LINE)
        ir.emit(f"ret i64 {state.FAULTED << 32}")
        if condition is not None:
            ir.label(good)

    # Operands -----------------------------------------------------------------------------

    def predicate(self, text: str) -> Lanes:
        """A vector of i1; `!` in front inverts."""
        value = self.register(text.removeprefix("!"))
        assert value.kind == "i1", text
        return ~value if text.startswith("!") else value

    def register(self, name: str) -> Lanes:
        """A register's value as integers of its width."""
        if name not in self._known:
            place, bits = self.layout.registers[name], self.entry.bits(name)
            if bits == 1:
                self._known[name] = self.load("i32", place).view("i1", WARP)
            else:
                self._known[name] = self.load(INTEGER[bits], place, WARP, 64)
        return self._known[name]

    def integer(self, text: str, bits: int) -> Lanes:
        """An operand as integers of so many bits: a wider register is cut."""
        if text.startswith("%"):
            value = self._special(text) or self.register(text)
            if value.bits < bits:
                value = value.to(INTEGER[bits])
        elif text[0] in "-0123456789":
            return self.ir.constant(INTEGER[bits], number(text), WARP)
        else:
            return self.ir.constant(INTEGER[bits], self.symbol(text), WARP)
        return value.to(INTEGER[bits])

    def real(self, text: str, bits: int) -> Lanes:
        """An operand as floats."""
        return self.integer(text, bits).view(FLOAT[bits])

    def symbol(self, text: str) -> int:
        """Offset of a variable, with what is added to it, in its space."""
        match = _SYMBOL.fullmatch(text.removesuffix("[0]"))
        name = match[1] if match else text
        if match is None or name not in self.entry.symbols:
            raise PtxFault("syntax", f"line {self.instruction.line}: {text} is not declared")
        offset = int(match[2] or match[3] or 0)
        return self.entry.symbols[name] + offset

    def address(self, text: str) -> Lanes:
        """`[register+offset]` or `[symbol+offset]` as a vector of i64."""
        inside = text.strip("[] ")
        if not inside.startswith("%"):
            return self.ir.constant("i64", self.symbol(inside), WARP)
        match = _SYMBOL.fullmatch(inside)
        assert match is not None, text
        base = self.integer(match[1], 64)
        offset = int(match[2] or match[3] or 0)
        return base + offset if offset else base

    def _special(self, name: str) -> Lanes | None:
        if name in _SPECIAL:
            return self.load("i32", _SPECIAL[name], WARP, 64)
        if name in _UNIFORM:
            return self.load("i32", _UNIFORM[name]).splat(WARP)
        if name == "%laneid":
            return self.ir.lane_numbers()
        return None

    # Results ------------------------------------------------------------------------------

    def write(self, name: str, value: Lanes) -> None:
        """Set a register; a value of floats is stored as its bits, a narrower one is widened."""
        if name == "_":
            return
        bits = self.entry.bits(name)
        if value.is_float:
            value = value.view(INTEGER[value.bits])
        if value.kind != INTEGER[bits]:
            value = value.to(INTEGER[bits])
        if self.instruction.guard:
            value = self.predicate(self.instruction.guard).select(value, self.register(name))
        self._known[name] = value
        self._changed[name] = None


def number(text: str) -> int:
    """A literal as an integer; of a float its bits."""
    text = text.rstrip("U")
    if text[:2] in ("0f", "0F", "0d", "0D"):
        return int(text[2:], 16)
    return int(text, 0)


def float_bits(value: float) -> int:
    """The bits of an f32."""
    return int.from_bytes(struct.pack("<f", value), "little")


def vector(text: str) -> list[str]:
    """`{a, b}` as its registers; one register as itself."""
    return [name.strip() for name in text.strip("{}").split(",")]
