"""One vector instruction over many values: loads, the instruction, a store, as machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import FlatCard
from tests.unit.softcard.amd.isa.references import DTYPES

COUNT = 1024
"""Work-items of the one workgroup that computes: a value each."""
SOURCES = (16, 18, 20)
"""Vector registers of the sources."""
RESULT = 24

_EDGE_FLOATS = [
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -7.75, 100.25, 1e-3, np.inf, -np.inf,
    np.nan,
]  # fmt: skip


def edges(kind: str) -> np.ndarray:
    """32 values of a kind at which operations behave specially."""
    dtype = DTYPES[kind]
    width = np.dtype(dtype).itemsize * 8
    if kind.startswith("f"):
        bits = {16: (10, 5), 32: (23, 8), 64: (52, 11)}[width]
        mantissa, size = bits
        top = ((1 << size) - 1) << mantissa
        patterns = [
            1, (1 << mantissa) - 1, 1 << mantissa, (1 << mantissa) + 1, top - 1,
            top | 1, top | 1 << (mantissa - 1) | 5, top >> 1, (top >> 1) + 1,
        ]  # fmt: skip
        sign = 1 << (width - 1)
        raw = [p ^ s for p in patterns for s in (0, sign)][:16]
        special = np.array(_EDGE_FLOATS, dtype)
        return np.concatenate([special, np.array(raw, f"u{width // 8}").view(dtype)])
    half = 1 << (width - 1)
    numbers = [
        0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000,
        0xFFFF, half - 1, half, half + 1, 2 * half - 1, 2 * half - 2, 2 * half - 31,
        0x0C080B0D, 0x12345678, 0x00FF00FF, 0xF0E1D2C3, 0x89ABCDEF,
    ]  # fmt: skip
    return np.array([n & (2 * half - 1) for n in numbers], f"u{width // 8}").view(dtype)


def operands(kinds: list[str], seed: int = 0) -> list[np.ndarray]:
    """Every pair of edges for the first two operands; a third drawn, edges and random bits."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for k, kind in enumerate(kinds):
        values = edges(kind)
        if k == 0:
            chosen = np.repeat(values, 32)
        elif k == 1:
            chosen = np.tile(values, 32)
        else:
            chosen = rng.choice(values, COUNT)
            some = rng.random(COUNT) < 0.5
            chosen[some] = (
                rng.bytes(COUNT * values.itemsize)
                and np.frombuffer(rng.bytes(COUNT * values.itemsize), values.dtype)[some]
            )
        found.append(chosen)
    return found


def random_operands(kinds: list[str], seed: int) -> list[np.ndarray]:
    """Random bits; floats of exponents near each other in half of the lanes."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for kind in kinds:
        dtype = np.dtype(DTYPES[kind])
        values = np.frombuffer(rng.bytes(COUNT * dtype.itemsize), dtype).copy()
        if kind.startswith("f"):
            near = rng.random(COUNT) < 0.5
            values[near] = (rng.normal(size=COUNT) * 8).astype(dtype)[near]
        found.append(values)
    return found


def run_lanes(
    card: FlatCard,
    instruction: bytes,
    values: list[np.ndarray],
    result: str,
    old: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """The results of `instruction`, which reads SOURCES and writes RESULT, for each value.

    16-bit operands lie in low halves under other bits; of a 16-bit result the low half is given
    and the high one must be as it was.
    """
    card.top = 4096
    code = a.vop("VOP2", "v_lshlrev_b32", 1, [130, a.V])
    code += a.vop("VOP2", "v_lshlrev_b32", 2, [131, a.V])
    user: list[int] = []
    for k, array in enumerate([*values, *([] if old is None else [old])]):
        register = SOURCES[k] if k < len(values) else RESULT
        wide = array.itemsize == 8
        words = array
        if array.itemsize == 2:
            words = array.view(np.uint16).astype(np.uint32) | np.uint32(0xA5C30000)
        address = card.place(np.ascontiguousarray(words))
        code += a.load(register, 2 if wide else 1, len(user), "b64" if wide else "b32")
        user += [address & 0xFFFFFFFF, address >> 32]
    dtype = np.dtype(DTYPES[result])
    wide = dtype.itemsize == 8
    if dtype.itemsize == 2 and old is None:
        code += a.vop("VOP1", "v_mov_b32", RESULT, [255], literal=0x5A3CBEEF)
    code += instruction
    out = card.place(np.zeros(COUNT, np.uint64 if wide else np.uint32))
    code += a.store(RESULT, 2 if wide else 1, len(user), "b64" if wide else "b32") + a.END
    user += [out & 0xFFFFFFFF, out >> 32]
    card.run_code(code, user, threads=(COUNT, 1, 1), **options)
    assert not card.tlb.faults
    if dtype.itemsize == 2:
        words = card.read(out, np.uint32, COUNT)
        if old is None:
            assert (words >> 16 == 0x5A3C).all(), "the other half of the register was changed"
        return (words & 0xFFFF).astype(np.uint16).view(dtype)
    return card.read(out, dtype, COUNT)


def assert_same(found: np.ndarray, expected: np.ndarray, values: list[np.ndarray]) -> None:
    """Equal bit by bit; any NaN equals any NaN."""
    assert found.dtype == expected.dtype
    word = f"u{found.itemsize}"
    differs = found.view(word) != expected.view(word)
    if found.dtype.kind == "f":
        differs &= ~(np.isnan(found) & np.isnan(expected))
    if differs.any():
        k = int(np.flatnonzero(differs)[0])
        given = ", ".join(f"{v[k]!r} ({int(v.view(f'u{v.itemsize}')[k]):#x})" for v in values)
        raise AssertionError(
            f"lane {k}: {found[k]!r} ({int(found.view(word)[k]):#x}) for {given}; "
            f"expected {expected[k]!r} ({int(expected.view(word)[k]):#x}); "
            f"{int(differs.sum())} lanes differ"
        )
