"""NVIDIA Ampere and later (sm_80 to sm_121), as PTX text for ptxas or the kernel driver's JIT.

Sources: PTX ISA 9.0 (shfl.sync, redux.sync, dp4a, prmt, cp.async, mma.sync and its fragments);
LLVM's NVPTX usage guide.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.kernel.builder import current
from exosuit.kernel.lowering.gpu import Gpu, call_scalar
from exosuit.kernel.matrix import MatrixTile, Piece
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass, Type, bf16, f16, f32, i32, u32
from exosuit.kernel.value import Value, join

_ALL = ("i32", "-1")  # member mask: every lane of the warp


class Nvptx(Gpu):
    calling_convention = "ptx_kernel"
    device_scope, group_scope = "device", "block"

    def attributes(self, group_size: int) -> str:
        # Without a stated minimum ptxas trades spills for more workgroups per multiprocessor.
        return f'"nvvm.reqntid"="{group_size},1,1" "nvvm.minctasm"="1"'

    # The workgroup ------------------------------------------------------------------------

    def group(self) -> Value:
        return _register("ctaid.x")

    def lane(self) -> Value:
        return _register("tid.x")

    def barrier(self, memory: bool = False) -> None:
        del memory  # it orders all memory that the workgroup sees
        current().call("void", "llvm.nvvm.barrier.cta.sync.aligned.all", ("i32", "0"))

    def wave_barrier(self) -> None:
        current().call("void", "llvm.nvvm.bar.warp.sync", _ALL)

    def keep_order(self) -> None:
        """The assembler has an order of its own."""

    def shuffle_word(self, x: Value, mask: int) -> Value:
        operands = (_ALL, ("i32", x.ir), ("i32", str(mask)), ("i32", "31"))
        return Value(x.type, current().call("i32", "llvm.nvvm.shfl.sync.bfly.i32", *operands))

    def wave_reduce(self, operation: str, x: Value) -> Value:
        total = x.reduce(operation)
        if total.dtype not in (i32, u32):
            return super().wave_reduce(operation, total)
        sign = "u" if total.dtype is u32 and operation != "add" else ""
        name = f"llvm.nvvm.redux.sync.{sign}{operation}"
        return Value(total.type, current().call("i32", name, ("i32", total.ir), _ALL))

    def prefetch(self, pointer: Pointer[DType], keep: bool) -> None:
        # There is no read-once form; such lines are better left to the load itself.
        # Written as text, because LLVM 22 selects its intrinsic from sm_90 on only.
        if keep and pointer.space == 1:
            operand = f"{pointer.ir_type} {pointer.ir}"
            current().emit(f'call void asm sideeffect "prefetch.global.L2 [$0];", "l"({operand})')

    def async_copy(self, to: Pointer[DType], source: Pointer[DType], size: int) -> None:
        # Sixteen bytes go past L1, which is what a tile that is read once wants.
        kind = "cg" if size == 16 else "ca"
        name = f"llvm.nvvm.cp.async.{kind}.shared.global.{size}"
        current().call("void", name, (to.ir_type, to.ir), (source.ir_type, source.ir))

    def async_commit(self) -> None:
        current().call("void", "llvm.nvvm.cp.async.commit.group")

    def async_wait(self, pending: int) -> None:
        current().call("void", "llvm.nvvm.cp.async.wait.group", ("i32 immarg", str(pending)))

    # Dots and matrices --------------------------------------------------------------------

    def dot4_word(self, a: Value, b: Value, total: Value, a_signed: bool, b_signed: bool) -> Value:
        signs = ".".join("s" if signed else "u" for signed in (a_signed, b_signed))
        operands = [("i32", x.ir) for x in (a, b, total)]
        return Value(Type(i32), current().call("i32", f"llvm.nvvm.idp4a.{signs}", *operands))

    def lookup_word(self, table: list[Value], index: Value) -> Value:
        # prmt's selectors are nibbles: gather the low nibble of each byte.
        pairs = (index | (index >> 4)) & 0x00FF00FF
        nibbles = (pairs | (pairs >> 8)) & 0xFFFF
        low, high = (_permute(table[k], table[k + 1], nibbles & 0x7777) for k in (0, 2))
        return _permute(low, high, ((nibbles >> 1) & 0x4444) | 0x3210)

    def mma_tile(self, dtype: DTypeClass) -> MatrixTile:
        k = 256 // dtype.bits
        return MmaTile(dtype, f32 if dtype.kind == "float" else i32, 16, 8, k, self.wave_lane())

    def mma(self, a: Value, b: Value, c: Value) -> Value:
        if a.dtype is f16:
            name, register = "m16n8k16.row.col.f32.f32", Type(f16, 2)
        elif a.dtype is bf16:
            name, register = "m16n8k16.row.col.bf16", Type(i32)
        else:
            letters = list(dict.fromkeys("s8" if x.type.is_signed else "u8" for x in (a, b)))
            name, register = f"m16n8k32.row.col.{'.'.join(letters)}", Type(i32)
        operands = [(register.ir, x.ir) for v in (a, b) for x in _registers(v, register)]
        operands += [(c.dtype.ir, c[k].ir) for k in range(4)]
        result = f"{{ {', '.join([c.dtype.ir] * 4)} }}"
        builder = current()
        text = builder.call(result, f"llvm.nvvm.mma.{name}", *operands)
        parts = [builder.assign(f"extractvalue {result} {text}, {k}") for k in range(4)]
        return join(*(Value(Type(c.dtype), part) for part in parts))

    # Mathematics --------------------------------------------------------------------------

    def exp2(self, x: Value) -> Value:
        return call_scalar("llvm.nvvm.ex2.approx.ftz.f", x)

    def rsqrt_lane(self, x: Value) -> Value:
        return call_scalar("llvm.nvvm.rsqrt.approx.ftz.f", x)

    def reciprocal_lane(self, x: Value) -> Value:
        return call_scalar("llvm.nvvm.rcp.approx.ftz.f", x)


def _register(name: str) -> Value:
    return Value(Type(i32), current().call("i32", f"llvm.nvvm.read.ptx.sreg.{name}"))


def _permute(low: Value, high: Value, selector: Value) -> Value:
    """Each nibble of the selector (0..7) picks a byte of low (0..3) and high (4..7)."""
    operands = [("i32", x.ir) for x in (low, high, selector)]
    return Value(Type(i32), current().call("i32", "llvm.nvvm.prmt", *operands))


def _registers(x: Value, register: Type) -> list[Value]:
    """A fragment as the 32-bit registers that the instruction takes."""
    if register.lanes == 1:
        words = x.view(register.dtype)
        return [words[k] for k in range(words.lanes)]
    return [x.shuffle(range(k, k + register.lanes)) for k in range(0, x.lanes, register.lanes)]


@dataclass(frozen=True)
class MmaTile(MatrixTile):
    """Fragments of mma.sync m16n8: a register of k-neighbours per lane, four lanes along k.

    With g = lane / 4 and t = lane % 4, a lane holds the t-th register of row g and of row g + 8,
    from the first and from the second half of k; of B, of column g.
    """

    def a_pieces(self) -> list[Piece]:
        row, first, second = self._corners()
        return [self._piece(r, k) for k in (first, second) for r in (row, row + 8)]

    def b_pieces(self) -> list[Piece]:
        column, first, second = self._corners()
        return [self._piece(column, k) for k in (first, second)]

    def c_places(self) -> list[tuple[Value, Value]]:
        row, column = self.lane >> 2, (self.lane & 3) * 2
        return [(row + 8 * (z // 2), column + z % 2) for z in range(4)]

    def _corners(self) -> tuple[Value, Value, Value]:
        first = (self.lane & 3) * (self.k // 8)
        return self.lane >> 2, first, first + self.k // 2

    def _piece(self, row: Value, k: Value) -> Piece:
        return Piece(row, k, self.k // 8)
