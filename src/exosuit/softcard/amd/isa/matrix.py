"""WMMA: products of 16 by 16 matrices spread over the registers of a wave.

Lane l of A (B) holds row (column) l % 16, one after the other in its registers; lanes 16 to 31
repeat lanes 0 to 15. Element z of C in lane l is row 2 z + l / 16, column l % 16. Source: AMD RDNA3
ISA guide, section 7.9; AMD, "How to accelerate AI applications on RDNA 3 using WMMA".
"""

from __future__ import annotations

from exosuit.silicon.amd.isa.operands import VECTOR
from exosuit.softcard.amd.isa import state
from exosuit.softcard.amd.isa.operation import Untranslated
from exosuit.softcard.amd.isa.wave import Wave
from exosuit.softcard.translation.ir import WAVE

_C_REGISTERS = 8
SHAPES: dict[str, str] = {
    "v_wmma_f32_16x16x16_f16": "wmma_f32_f16",
    "v_wmma_f32_16x16x16_bf16": "wmma_f32_bf16",
    "v_wmma_f16_16x16x16_f16": "wmma_f16",
    "v_wmma_bf16_16x16x16_bf16": "wmma_bf16",
    "v_wmma_i32_16x16x16_iu8": "wmma_i32_iu8",
    "v_wmma_i32_16x16x16_iu4": "wmma_i32_iu4",
}
"""Routines by instruction."""


def matrix_product(wave: Wave, name: str) -> None:
    """Translate a WMMA instruction into the call of its routine."""
    made = wave.instruction
    if name not in SHAPES or made.clamp or made.sources[0] < VECTOR or made.sources[1] < VECTOR:
        raise Untranslated(name)
    if "iu" not in name and (made.neg & 3 or made.neg_hi & 3):
        raise Untranslated(f"{name} with signs changed")
    wave.settle()
    places = [wave.vector_place(code - VECTOR) for code in made.sources[:2]]
    if made.sources[2] >= VECTOR:
        added = wave.vector_place(made.sources[2] - VECTOR)
    else:
        constant = wave.source(made.sources[2], 32, WAVE)
        for k in range(_C_REGISTERS):
            wave.store(constant, state.BUFFER + k * state.VECTOR_BYTES, align=64)
        added = wave.place(state.BUFFER)
    # The signs of integers, or for 16-bit results which halves of the registers.
    flags = made.neg & 3 if "iu" in name else made.op_sel >> 2 & 1
    wave.routine(
        SHAPES[name], wave.vector_place(made.vdst), *places, added,
        wave.ir.constant("i32", flags), wave.exec,
    )  # fmt: skip
