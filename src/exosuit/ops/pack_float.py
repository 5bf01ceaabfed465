"""Packing of float weights: eight rows side by side, and panels of them that take turns.

Runs on the device, once per tensor at load, as `ops.pack` does for quantised weights. The NumPy
reference stands below the kernel; why panels take turns is said in `ops.matmul_float`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exosuit.kernel import (
    In,
    Out,
    Scalar,
    group,
    i32,
    i64,
    kernel,
    loop,
    minimum,
    u8,
    u16,
    u32,
)
from exosuit.ops.blocks import ROWS
from exosuit.ops.matmul_float import FloatFormat
from exosuit.ops.pack import pack_reference

_BITS = {2: u16, 4: u32}


@kernel
def pack_floats(
    raw: In[u8],
    out: Out[u8],
    rows: Scalar[i32],
    step: Scalar[i32],
    start: Scalar[i32],
    *,
    columns: int,
    format: FloatFormat,
) -> None:
    """One workgroup packs eight rows.

    raw    elements[rows, columns]
    out    packed as `format` says; workgroup g writes panel g * step + start
    Rows past the end repeat the last one; whoever multiplies does not store them.
    """
    bits = _BITS[format.bytes]
    panel = format.panel(out, group() * step + start, columns)
    first = group() * ROWS
    sources = [
        raw.at(minimum(first + r, rows - 1).to(i64) * (columns * format.bytes)).view(bits)
        for r in range(ROWS)
    ]
    run = format.run or columns
    for begin in loop(columns, step=run):
        target = format.run_at(panel, begin).view(bits)
        for k in loop(run):
            for r, source in enumerate(sources):
                # File data is aligned to nothing.
                target.store(source.load(begin + k, align=1), k * ROWS + r)


def pack_floats_reference(raw: NDArray[np.uint8], format: FloatFormat) -> NDArray[np.uint8]:
    """u8[rows, columns * bytes] to the bytes of the packed matrix, u8[...]."""
    panels = pack_reference(raw, format.fields, format.bytes)
    if not format.run:
        return panels.reshape(-1)
    runs = panels.reshape(
        -1, format.turns, panels.shape[1] // format.run, format.run * panels.shape[2]
    )
    return runs.swapaxes(1, 2).reshape(-1)
