"""AMD RDNA3 (gfx11) and RDNA4 (gfx12), wave32, as relocatable code objects.

Sources: LLVM's AMDGPU usage guide; AMD RDNA3 and RDNA4 ISA guides (DPP, WMMA fragments). What the
loader may rely on: kernel_code_properties is 0x408 (kernarg pointer, wave32) and nothing is
implicit; `v0` is the lane's number; all arguments are eight-byte slots.

Fences around barriers carry an `mmra` tag that limits them to workgroup memory; without it every
barrier would wait for and invalidate global memory too.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.kernel.builder import Builder, current
from exosuit.kernel.lowering.gpu import WAVE, Gpu, call_scalar
from exosuit.kernel.matrix import MatrixTile, Piece
from exosuit.kernel.memory import Pointer
from exosuit.kernel.types import DType, DTypeClass, Type, f16, f32, i16, i32
from exosuit.kernel.value import Value, constant, integer

_UNUSED = (
    "dispatch-ptr", "queue-ptr", "dispatch-id", "implicitarg-ptr", "workitem-id-y", "workitem-id-z",
    "workgroup-id-y", "workgroup-id-z", "lds-kernel-id",
)  # fmt: skip
_ROW_XMASK = 0x160  # DPP control: lane xor mask within a row of 16
_CODE_OBJECT = 600  # version 6, in LLVM's spelling


class AmdGpu(Gpu):
    calling_convention = "amdgpu_kernel"
    device_scope, group_scope = "agent", "workgroup"

    def attributes(self, group_size: int) -> str:
        return " ".join([
            f'"amdgpu-flat-work-group-size"="{group_size},{group_size}"',
            '"uniform-work-group-size"="true"',
            *(f'"amdgpu-no-{name}"' for name in _UNUSED),
        ])  # fmt: skip

    def module_flags(self, builder: Builder) -> list[str]:
        number = len(builder.metadata)
        return [
            f"!llvm.module.flags = !{{!{number}}}",
            f'!{number} = !{{i32 1, !"amdhsa_code_object_version", i32 {_CODE_OBJECT}}}',
        ]

    # The workgroup ------------------------------------------------------------------------

    def group(self) -> Value:
        return Value(Type(i32), current().call("i32", "llvm.amdgcn.workgroup.id.x"))

    def lane(self) -> Value:
        return Value(Type(i32), current().call("i32", "llvm.amdgcn.workitem.id.x"))

    def wave(self) -> Value:
        # All lanes agree on it; saying so keeps what follows from it in scalar registers.
        if current().group_size == WAVE:
            return integer(0)
        return call_scalar("llvm.amdgcn.readfirstlane.i32", self.lane() >> 5)

    def barrier(self, memory: bool = False) -> None:
        builder = current()
        local = builder.node('!{!"amdgpu-synchronize-as", !"local"}')
        tag = "" if memory else f", !mmra {local}"
        builder.emit(f'fence syncscope("workgroup") release{tag}')
        builder.call("void", "llvm.amdgcn.s.barrier")
        builder.emit(f'fence syncscope("workgroup") acquire{tag}')

    def wave_barrier(self) -> None:
        # Lanes run in lockstep and workgroup memory answers in order: this only holds LLVM back.
        builder = current()
        local = builder.node('!{!"amdgpu-synchronize-as", !"local"}')
        builder.emit(f'fence syncscope("wavefront") release, !mmra {local}')
        builder.call("void", "llvm.amdgcn.wave.barrier")
        builder.emit(f'fence syncscope("wavefront") acquire, !mmra {local}')

    def keep_order(self) -> None:
        current().call("void", "llvm.amdgcn.sched.barrier", ("i32 immarg", "0"))

    def shuffle_word(self, x: Value, mask: int) -> Value:
        if mask < 16:
            operands = [("i32", "poison"), ("i32", x.ir)]
            controls = [("i32 immarg", str(n)) for n in (_ROW_XMASK + mask, 15, 15)]
            text = current().call(
                "i32", "llvm.amdgcn.update.dpp.i32", *operands, *controls, ("i1 immarg", "true")
            )
            return Value(x.type, text)
        # The other row of 16; each nibble of the selectors names a lane of it.
        chosen = sum((k ^ (mask & 15)) << (4 * k) for k in range(16))
        selectors = [("i32", str(half)) for half in (chosen & 0xFFFFFFFF, chosen >> 32)]
        keep = [("i1 immarg", "false")] * 2
        text = current().call(
            "i32", "llvm.amdgcn.permlanex16.i32", ("i32", x.ir), ("i32", x.ir), *selectors, *keep
        )
        return Value(x.type, text)

    def atomic_metadata(self) -> str:
        """Device memory is neither fine-grained nor another card's: native float atomics."""
        empty = current().node("!{}")
        return f", !amdgpu.no.fine.grained.memory {empty}, !amdgpu.no.remote.memory {empty}"

    def prefetch(self, pointer: Pointer[DType], keep: bool) -> None:
        """A hint; these chips hide latency by other waves and have no such instruction."""

    # Dots and matrices --------------------------------------------------------------------

    def dot4_word(self, a: Value, b: Value, total: Value, a_signed: bool, b_signed: bool) -> Value:
        signs = [("i1 immarg", str(flag).lower()) for flag in (a_signed, b_signed)]
        text = current().call(
            "i32", "llvm.amdgcn.sudot4", signs[0], ("i32", a.ir), signs[1], ("i32", b.ir),
            ("i32", total.ir), ("i1 immarg", "false"),
        )  # fmt: skip
        return Value(Type(i32), text)

    def lookup_word(self, table: list[Value], index: Value) -> Value:
        low_bits = index & 0x07070707
        low, high = (_perm(table[k + 1], table[k], low_bits) for k in (0, 2))
        # Bit 3 of an index says which of the two: byte k of `low`, or byte k + 4 of the pair.
        return _perm(high, low, ((index >> 1) & 0x04040404) | 0x03020100)

    def mma_tile(self, dtype: DTypeClass) -> MatrixTile:
        halves = 2 if current().target.has("wmma_gfx12") else 1
        return WmmaTile(
            dtype, f32 if dtype.kind == "float" else i32, 16, 16, 16, self.wave_lane(), halves
        )

    def mma(self, a: Value, b: Value, c: Value) -> Value:
        words = a.type.bits // 32
        if a.dtype.kind == "float":
            operand = a.type if a.dtype is f16 else Type(i16, a.lanes)
            name = f"llvm.amdgcn.wmma.f32.16x16x16.{a.dtype.__name__}.v8f32.{operand.suffix}"
            a, b = (x if a.dtype is f16 else x.view(i16) for x in (a, b))
            operands = [(x.type.ir, x.ir) for x in (a, b, c)]
        else:
            name = f"llvm.amdgcn.wmma.i32.16x16x16.iu8.v8i32.v{words}i32"
            operands: list[tuple[str, str]] = []
            for x in (a, b):
                operands.append(("i1 immarg", str(x.type.is_signed).lower()))
                operands.append((f"<{words} x i32>", x.view(i32).ir))
            operands += [(c.type.ir, c.ir), ("i1 immarg", "false")]
        return Value(c.type, current().call(c.type.ir, name, *operands))

    # Mathematics --------------------------------------------------------------------------

    def exp2(self, x: Value) -> Value:
        return call_scalar("llvm.amdgcn.exp2.f32", x)

    def rsqrt_lane(self, x: Value) -> Value:
        return call_scalar("llvm.amdgcn.rsq.f32", x)

    def reciprocal_lane(self, x: Value) -> Value:
        return call_scalar("llvm.amdgcn.rcp.f32", x)


def _perm(high: Value, low: Value, selector: Value) -> Value:
    """Each byte of the selector (0..7) picks a byte of low (0..3) and high (4..7)."""
    operands = [("i32", x.ir) for x in (high, low, selector)]
    return Value(Type(i32), current().call("i32", "llvm.amdgcn.perm", *operands))


@dataclass(frozen=True)
class WmmaTile(MatrixTile):
    """WMMA's fragments: a lane holds one row of A (column of B), whole or half of its 16 k.

    halves  1 (gfx11): lanes 16..31 repeat lanes 0..15, and C's rows alternate between them
            2 (gfx12): lanes 16..31 hold k 8..15, and C's rows 8..15
    """

    halves: int

    @property
    def copies(self) -> int:
        return 2 // self.halves

    def _pieces(self) -> list[Piece]:
        half = self.lane >> 4
        first = half * 8 if self.halves == 2 else constant(i32, 0)
        return [Piece(self.lane & 15, first, 16 // self.halves)]

    def a_pieces(self) -> list[Piece]:
        return self._pieces()

    def b_pieces(self) -> list[Piece]:
        return self._pieces()

    def c_places(self) -> list[tuple[Value, Value]]:
        half, column = self.lane >> 4, self.lane & 15
        if self.halves == 2:
            return [(half * 8 + z, column) for z in range(8)]
        return [(half + 2 * z, column) for z in range(8)]
