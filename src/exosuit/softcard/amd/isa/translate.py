"""From decoded blocks to one LLVM function: `i64 wave(ptr state, i32 resume)`.

Each block of the program is a block of the function. Where a wave may be put aside (a barrier, the
head of a loop) it can be resumed, and the function returns kind << 32 | address of the block to go
on with. What cannot be translated becomes a return with a fault, so it counts only if reached.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from exosuit.silicon.amd.isa.operands import EXEC, VCC
from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.decode import Block, Instruction
from exosuit.softcard.amd.isa.memory import global_memory, local_memory
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.scalar import IGNORED, scalar, scalar_load
from exosuit.softcard.amd.isa.vector import dual, vector
from exosuit.softcard.amd.isa.wave import FloatMode, Wave
from exosuit.softcard.translation.ir import Function, Lanes

_PART = 64
"""Instructions after which a long block is cut: LLVM takes more than twice as long for twice as
many, above all where hundreds of registers are live."""


class Kind(IntEnum):
    """Why `wave` returns."""

    GO_ON = 0
    BARRIER = 1
    ENDED = 2
    ILLEGAL = 3
    TRAP = 4
    HANG = 5


_SCALAR_TABLES = frozenset({"SOP1", "SOP2", "SOPC", "SOPK", "SOPP"})
_VECTOR_TABLES = frozenset({"VOP1", "VOP2", "VOP3", "VOPC", "VOP3P"})
_MEMORY_TABLES = frozenset({"FLAT", "GLOBAL", "SCRATCH"})


def translate(blocks: dict[int, Block], mode: FloatMode) -> str:
    """The IR of a program."""
    function = Function(mode.ieee)
    program = _Program(function, blocks, Wave(function, mode), mode)
    cases = " ".join(f"i32 {b.address}, label %b{b.address}" for b in blocks.values() if b.resumed)
    function.emit(f"switch i32 %resume, label %lost [ {cases} ]")
    function.label("lost")
    function.emit("unreachable")
    for block in blocks.values():
        program.block(block)
    body = "\n".join(function.lines)
    head = 'define i64 @wave(ptr noalias %state, i32 %resume) nounwind "no-builtins"'
    return "\n".join([f"{head} {{\nentry:\n{body}\n}}", *function.declarations.values(), ""])


class _Program:
    def __init__(
        self, function: Function, blocks: dict[int, Block], wave: Wave, mode: FloatMode
    ) -> None:
        self.mode = mode
        self.ir = function
        self.blocks = blocks
        self.wave = wave

    def block(self, block: Block) -> None:
        """Translate one block up to its branch or end."""
        wave = self.wave
        self.ir.label(f"b{block.address}")
        wave.begin_block()
        wave.mode, self.ir.ieee = self.mode, self.mode.ieee
        active = wave.exec.call("ctpop").to("i64")
        moved = 0
        for number, made in enumerate(block.instructions):
            if number and number % _PART == 0:
                self._cut(f"b{block.address}.{number}")
            wave.instruction = made
            if wave.mode != self.mode and (made.branch is not None or made.name in _ENDS):
                self._return(Kind.ILLEGAL, made)
                return
            if made.branch is not None:
                self._count(block, active, moved)
                self._branch(made)
                return
            if (end := _ENDS.get(made.name)) is not None:
                self._count(block, active, moved)
                self._return(end, made)
                return
            try:
                moved += self._one(made)
            except Untranslated:
                self._count(block, active, moved)
                self._return(Kind.ILLEGAL, made)
                return
        if wave.mode != self.mode:
            self._return(Kind.ILLEGAL, block.instructions[-1])
            return
        self._count(block, active, moved)
        assert block.follows is not None
        self._go(block.follows, block.instructions[-1].address)

    def _cut(self, name: str) -> None:
        """Go on in a block of its own, with all registers in the state."""
        self.wave.end_block()
        self.ir.jump(name)
        self.ir.label(name)
        self.wave.begin_block()

    def _one(self, made: Instruction) -> int:
        """Translate one instruction; bytes of memory it moves per lane."""
        wave = self.wave
        if made.table in _SCALAR_TABLES:
            scalar(wave, made)
        elif made.table in _VECTOR_TABLES:
            vector(wave, made)
        elif made.table == "VOPD":
            dual(wave, made)
        elif made.table == "SMEM":
            scalar_load(wave, made)
        elif made.table in _MEMORY_TABLES:
            return global_memory(wave, made)
        elif made.table == "DS":
            local_memory(wave, made)
        elif made.name not in IGNORED:
            raise Untranslated(made.name)
        return 0

    def _count(self, block: Block, active: Lanes, moved: int) -> None:
        """What this block does: scalar instructions count one, others one for each lane on."""
        scalars = sum(x.table in _SCALAR_TABLES or x.table == "SMEM" for x in block.instructions)
        wave = self.wave
        done = active * (len(block.instructions) - scalars) + scalars
        total = wave.load("i64", state.INSTRUCTIONS, align=8) + done
        wave.store(total, state.INSTRUCTIONS, align=8)
        if moved:
            so_far = wave.load("i64", state.MEMORY_BYTES, align=8)
            wave.store(so_far + active * moved, state.MEMORY_BYTES, align=8)

    def _branch(self, made: Instruction) -> None:
        target = made.branch
        assert target is not None
        wave = self.wave
        test = _CONDITIONS.get(made.name)
        condition = None if test is None else test(wave)
        wave.end_block()
        if condition is None:
            if made.name != "s_branch":
                raise AssertionError(made.name)
            self._go(target, made.address)
            return
        name = f"taken{made.address}"
        self.ir.branch(condition, name, f"b{made.end}")
        self.ir.label(name)
        self._jump(target, made.address)

    def _go(self, target: int, source: int) -> None:
        self.wave.end_block()
        self._jump(target, source)

    def _jump(self, target: int, source: int) -> None:
        """To another block; a wave that goes back and has had its slice steps aside first."""
        if target > source:
            self.ir.jump(f"b{target}")
            return
        wave = self.wave
        over = wave.load("i64", state.INSTRUCTIONS, align=8).compare(
            "ugt", wave.load("i64", state.PAUSE_AT, align=8)
        )
        aside = f"aside{source}"
        self.ir.branch(over, aside, f"b{target}")
        self.ir.label(aside)
        self.ir.emit(f"ret i64 {_result(Kind.GO_ON, target)}")

    def _return(self, kind: Kind, made: Instruction) -> None:
        wave = self.wave
        if kind is Kind.ENDED:
            self.ir.emit(f"ret i64 {_result(kind, 0)}")
            return
        if kind in (Kind.GO_ON, Kind.BARRIER):
            wave.end_block()
            self.ir.emit(f"ret i64 {_result(kind, made.end)}")
            return
        wave.store(self.ir.constant("i32", made.address), state.FAULT_ADDRESS)
        self.ir.emit(f"ret i64 {_result(kind, made.address)}")


def _result(kind: Kind, address: int) -> int:
    return kind << 32 | address


_ENDS: dict[str, Kind] = {
    "s_endpgm": Kind.ENDED,
    "s_barrier": Kind.BARRIER,
    "s_sleep": Kind.GO_ON,
    "s_trap": Kind.TRAP,
    "s_sethalt": Kind.TRAP,
    "": Kind.ILLEGAL,
    "s_setpc_b64": Kind.ILLEGAL,
    "s_swappc_b64": Kind.ILLEGAL,
    "s_rfe_b64": Kind.ILLEGAL,
    "s_call_b64": Kind.ILLEGAL,
}

_CONDITIONS: dict[str, Callable[[Wave], Lanes]] = {
    "s_cbranch_scc0": lambda wave: ~wave.scc,
    "s_cbranch_scc1": lambda wave: wave.scc,
    "s_cbranch_vccz": lambda wave: wave.scalar(VCC).eq(0),
    "s_cbranch_vccnz": lambda wave: wave.scalar(VCC).ne(0),
    "s_cbranch_execz": lambda wave: wave.scalar(EXEC).eq(0),
    "s_cbranch_execnz": lambda wave: wave.scalar(EXEC).ne(0),
    "s_cbranch_cdbgsys": lambda wave: wave.ir.constant("i1", 0),
    "s_cbranch_cdbguser": lambda wave: wave.ir.constant("i1", 0),
    "s_cbranch_cdbgsys_or_user": lambda wave: wave.ir.constant("i1", 0),
    "s_cbranch_cdbgsys_and_user": lambda wave: wave.ir.constant("i1", 0),
}
