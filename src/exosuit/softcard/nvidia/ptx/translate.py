"""From the blocks of a kernel to one LLVM function: `i64 warp(ptr state, i32 resume)`.

Lanes part at branches and meet again by one rule: of all blocks in which lanes wait, the first (see
`order`) runs next, with all lanes that wait there. While all lanes go the same way no one waits,
and a branch is a jump. A barrier of the group ends the function, which goes on at the block behind
it; so does the end of the last lane, and a fault.

What cannot be translated ends with a fault where it is reached, so it counts only if it is.
"""

from __future__ import annotations

from collections.abc import Callable

from exosuit.softcard.nvidia.ptx import cross, floats, integers, matrices, memory, routines, state
from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.order import put_in_order
from exosuit.softcard.nvidia.ptx.parse import Block, Entry, Instruction
from exosuit.softcard.nvidia.ptx.state import Layout
from exosuit.softcard.nvidia.ptx.types import is_type, type_of
from exosuit.softcard.nvidia.ptx.warp import SCRATCH, Warp, vector
from exosuit.softcard.translation.ir import Function, Lanes

_PART = 64
"""Instructions after which a long block is cut: LLVM takes more than twice as long for twice as
many."""

_HANDLERS: dict[str, Callable[[Warp, Instruction], None]] = {
    **integers.HANDLERS, **memory.HANDLERS, **cross.HANDLERS, **matrices.HANDLERS,
    "setp": floats.compare, "cvt": floats.convert,
}  # fmt: skip
_OF_ANY_TYPE = frozenset({
    "ld", "st", "atom", "red", "mov", "selp", "setp", "cvt", "mma", "shfl", "redux",
})  # fmt: skip


def lay_out(entry: Entry) -> Layout:
    """Where the function of a kernel keeps what. Reorders the kernel's blocks."""
    put_in_order(entry)
    return Layout.of(len(entry.blocks), outliving(entry), entry.local_bytes)


def translate(entry: Entry, layout: Layout) -> str:
    """The IR of a kernel that is laid out."""
    function = Function()
    _Kernel(function, entry, Warp(function, entry, layout)).write()
    return "\n".join(function.lines)


def outliving(entry: Entry) -> dict[str, int]:
    """Registers that some block reads before it writes them, with their widths."""
    found: dict[str, int] = {}
    for block in entry.blocks:
        written: set[str] = set()
        for made in block.instructions:
            reads, writes = _registers(made)
            for name in reads:
                if name not in written:
                    found[name] = entry.bits(name)
            written.update(writes)
    return found


_STORES = frozenset({"st", "red", "bra", "ret", "exit", "bar", "barrier", "prefetch", "cp"})


def _registers(made: Instruction) -> tuple[list[str], list[str]]:
    """What an instruction reads and writes; a guarded one reads what it may leave as it was."""
    writes: list[str] = []
    reads = [made.guard.removeprefix("!")] if made.guard else []
    for place, operand in enumerate(made.operands):
        names = [
            name.strip("! ").partition("+")[0]
            for part in vector(operand.strip("[]"))
            for name in part.split("|")
        ]
        names = [name for name in names if name.startswith("%") and "." not in name]
        names = [name for name in names if name not in ("%laneid", "%warpid")]
        if place == 0 and made.name not in _STORES:
            writes += names
            reads += names if made.guard else []
        else:
            reads += names
    return reads, writes


class _Kernel:
    def __init__(self, function: Function, entry: Entry, warp: Warp) -> None:
        self.ir = function
        self.entry = entry
        self.warp = warp
        self.wide = f"i{64 * warp.layout.words}"

    def write(self) -> None:
        """The whole module."""
        ir = self.ir
        ir.lines.append("define i64 @warp(ptr noalias %state, i32 %resume) nounwind {")
        ir.label("entry")
        for k in range(SCRATCH):
            ir.emit(f"%scratch{k} = alloca [512 x i8], align 64")
        self._switch("%resume")
        for block in self.entry.blocks:
            self._block(block)
        self._dispatcher()
        ir.lines.append("}")
        ir.declarations["llvm.cttz.i32"] = "declare i32 @llvm.cttz.i32(i32, i1)"
        ir.lines += [routines.module_text(self.warp.used), *ir.declarations.values(), ""]

    # Blocks -------------------------------------------------------------------------------

    def _block(self, block: Block) -> None:
        warp = self.warp
        self.ir.label(f"b{block.number}")
        warp.begin_block()
        self._count(block)
        for number, made in enumerate(block.instructions):
            if number and number % _PART == 0:
                name = f"b{block.number}.{number}"
                self.ir.jump(name)
                self.ir.label(name)
            warp.begin(made)
            if made.name in ("bra", "ret", "exit") or self._is_barrier(made):
                self._leave(block, made)
                return
            try:
                _handler(made)(warp, made)
            except PtxFault as fault:
                if fault.kind != "instruction":
                    raise
                warp.fault(state.INSTRUCTION)
                return
        warp.end_block()
        if block.follows is None:
            raise PtxFault("syntax", f"{self.entry.name}: the text ends without ret")
        self._go(block.follows)

    def _count(self, block: Block) -> None:
        """Add to what was done, and end a warp that has no end."""
        warp = self.warp
        done = warp.running.call("ctpop").to("i64") * len(block.instructions)
        warp.store(warp.load("i64", state.DONE, align=8) + done, state.DONE, 8)
        left = warp.load("i64", state.BUDGET, align=8) - 1
        warp.store(left, state.BUDGET, 8)
        if block.instructions:
            warp.instruction = block.instructions[0]
        warp.fault(state.HANG, left.compare("slt", 0))

    @staticmethod
    def _is_barrier(made: Instruction) -> bool:
        return made.name in ("bar", "barrier") and not made.has("warp")

    def _leave(self, block: Block, made: Instruction) -> None:
        warp = self.warp
        taken = warp.active if made.guard else None
        warp.end_block()
        if self._is_barrier(made):
            self._barrier(block, made, taken)
        elif made.name == "bra":
            target = self.entry.labels.get(made.operands[0])
            if target is None:
                raise PtxFault("syntax", f"line {made.line}: no label {made.operands[0]}")
            self._branch(target, block.follows, taken)
        else:
            self._return(block, taken)

    def _barrier(self, block: Block, made: Instruction, taken: Lanes | None) -> None:
        """All lanes that are left must have come, with the one barrier there is."""
        warp = self.warp
        simple = taken is None and made.operands == ("0",) and block.follows is not None
        if not simple or (made.name == "bar" and made.parts[1] != "sync"):
            return warp.fault(state.INSTRUCTION)
        alive = warp.load("i32", state.ALIVE)
        warp.fault(state.DIVERGED, alive.ne(warp.running))
        assert block.follows is not None
        return self.ir.emit(f"ret i64 {state.BARRIER << 32 | block.follows}")

    def _branch(self, target: int, follows: int | None, taken: Lanes | None) -> None:
        if taken is None:
            return self._go(target)
        assert follows is not None
        ir, running = self.ir, self.warp.running
        rest = running & ~taken
        go, stay, some, part = (f"{x}.{ir.name()}" for x in ("go", "stay", "some", "part"))
        ir.branch(taken.eq(0), stay, some)
        ir.label(some)
        ir.branch(rest.eq(0), go, part)
        ir.label(part)
        self._wait(target, taken)
        self._wait(follows, rest)
        ir.jump("dispatch")
        ir.label(go)
        self._go(target)
        ir.label(stay)
        return self._go(follows)

    def _return(self, block: Block, taken: Lanes | None) -> None:
        warp = self.warp
        gone = warp.running if taken is None else taken
        warp.store(warp.load("i32", state.ALIVE) & ~gone, state.ALIVE)
        if taken is not None:
            assert block.follows is not None
            rest = warp.running & ~taken
            name = f"returned.{self.ir.name()}"
            self.ir.branch(rest.eq(0), "dispatch", name)
            self.ir.label(name)
            self._wait(block.follows, rest)
        self.ir.jump("dispatch")

    # Lanes that wait ----------------------------------------------------------------------

    def _go(self, target: int) -> None:
        """All running lanes to a block: at once if no others wait anywhere."""
        name = f"wait.{self.ir.name()}"
        self.ir.branch(self._no_one(self._waiting()), f"b{target}", name)
        self.ir.label(name)
        self._wait(target, self.warp.running)
        self.ir.jump("dispatch")

    def _wait(self, target: int, mask: Lanes) -> None:
        warp, word = self.warp, state.PENDING + 8 * (target // 64)
        bits = warp.load("i64", word, align=8) | (1 << (target % 64))
        warp.store(bits, word, 8)
        place = warp.layout.pending + 4 * target
        warp.store(warp.load("i32", place) | mask, place)

    def _dispatcher(self) -> None:
        """Run the first block in which lanes wait; none do when all have returned."""
        ir, warp = self.ir, self.warp
        ir.label("dispatch")
        waiting = self._waiting()
        ir.branch(self._no_one(waiting), "ended", "found")
        ir.label("ended")
        ir.emit(f"ret i64 {state.ENDED << 32}")
        ir.label("found")
        wide = self.wide
        ir.declarations[f"llvm.cttz.{wide}"] = f"declare {wide} @llvm.cttz.{wide}({wide}, i1)"
        first = ir.assign(f"call {wide} @llvm.cttz.{wide}({wide} {waiting}, i1 true)")
        less = ir.assign(f"sub {wide} {waiting}, 1")
        rest = ir.assign(f"and {wide} {waiting}, {less}")
        ir.emit(f"store {wide} {rest}, ptr {ir.address('%state', state.PENDING)}, align 8")
        number = ir.value("i32", 1, f"trunc {wide} {first} to i32")
        table = ir.address("%state", warp.layout.pending)
        place = ir.assign(f"getelementptr i32, ptr {table}, {number.typed}")
        mask = ir.load("i32", 1, place, 4)
        ir.store(ir.constant("i32", 0), place, 4)
        ir.store(mask, ir.address("%state", state.RUNNING), 4)
        self._switch(number.text)

    def _waiting(self) -> str:
        """The bitmap of blocks in which lanes wait, as one wide integer."""
        place = self.ir.address("%state", state.PENDING)
        return self.ir.assign(f"load {self.wide}, ptr {place}, align 8")

    def _no_one(self, waiting: str) -> Lanes:
        return self.ir.value("i1", 1, f"icmp eq {self.wide} {waiting}, 0")

    def _switch(self, number: str) -> None:
        ir = self.ir
        lost = f"lost.{ir.name()}"
        cases = " ".join(f"i32 {b.number}, label %b{b.number}" for b in self.entry.blocks)
        ir.emit(f"switch i32 {number}, label %{lost} [ {cases} ]")
        ir.label(lost)
        ir.emit("unreachable")


def _handler(made: Instruction) -> Callable[[Warp, Instruction], None]:
    """What translates an instruction; those on floats that are named like others are told apart."""
    last = made.parts[-1]
    is_float = is_type(last) and type_of(last).is_float
    if is_float and made.name not in _OF_ANY_TYPE:
        return floats.floats
    found = _HANDLERS.get(made.name)
    if found is None:
        raise PtxFault("instruction", f"line {made.line}: {made}")
    return found
