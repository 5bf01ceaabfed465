"""Which lane holds what of a matrix tile, evaluated on the host for all 32 lanes.

The expected places are the vendors' formulas, written here element by element: PTX ISA 9.0,
"Matrix Fragments for mma.m16n8k16 / m16n8k32"; AMD RDNA3 and RDNA4 ISA guides, WMMA. Emulated gfx11
machine code (an emulator that is not ours to keep) gave the right f16 product too.
"""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.kernel import Out, f16, f32, i8, i32, kernel, loop
from exosuit.kernel.lowering.amdgpu import WmmaTile
from exosuit.kernel.lowering.nvptx import MmaTile


def _places(run, make):
    """[lane, element, (row, k or column)] of A, of B and of C."""
    shapes: list[int] = []

    @kernel
    def places(out: Out[i32]) -> None:
        for lane in loop(32):
            tile = make(lane)
            operands = [
                [(p.row, p.k + j) for p in pieces for j in range(p.count)]
                for pieces in (tile.a_pieces(), tile.b_pieces())
            ]
            operands.append(tile.c_places())
            shapes[:] = [len(operand) for operand in operands]
            for number, (row, column) in enumerate(p for operand in operands for p in operand):
                out[lane * 128 + 2 * number] = row
                out[lane * 128 + 2 * number + 1] = column

    out = np.zeros((32, 64, 2), np.int32)
    run(places, out)
    a, b, c = shapes
    return out[:, :a], out[:, a : a + b], out[:, a + b : a + b + c]


def _expected(count, place):
    return np.array([[place(lane, i) for i in range(count)] for lane in range(32)])


@pytest.mark.parametrize(("dtype", "per_register"), [(f16, 2), (i8, 4)])
def test_mma(run_host, dtype, per_register):
    r = per_register
    a, b, c = _places(run_host, lambda lane: MmaTile(dtype, f32, 16, 8, 8 * r, lane))

    def place_a(lane: int, i: int) -> tuple[int, int]:
        row = lane // 4 + (8 if r <= i % (2 * r) else 0)
        return row, (lane % 4) * r + i % r + (4 * r if i >= 2 * r else 0)

    np.testing.assert_array_equal(a, _expected(4 * r, place_a))
    np.testing.assert_array_equal(
        b,
        _expected(
            2 * r, lambda lane, i: (lane // 4, (lane % 4) * r + i % r + (4 * r if i >= r else 0))
        ),
    )
    np.testing.assert_array_equal(
        c, _expected(4, lambda lane, i: (lane // 4 + 8 * (i >= 2), (lane % 4) * 2 + i % 2))
    )


@pytest.mark.parametrize("halves", [1, 2])
def test_wmma(run_host, halves):
    a, b, c = _places(run_host, lambda lane: WmmaTile(f16, f32, 16, 16, 16, lane, halves))
    if halves == 1:  # gfx11
        operand = _expected(16, lambda lane, i: (lane % 16, i))
        result = _expected(8, lambda lane, i: (2 * i + lane // 16, lane % 16))
    else:  # gfx12
        operand = _expected(8, lambda lane, i: (lane % 16, 8 * (lane // 16) + i))
        result = _expected(8, lambda lane, i: (8 * (lane // 16) + i, lane % 16))
    np.testing.assert_array_equal(a, operand)
    np.testing.assert_array_equal(b, operand)
    np.testing.assert_array_equal(c, result)
