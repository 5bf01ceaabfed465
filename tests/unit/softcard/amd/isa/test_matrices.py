"""Vector instructions on pairs and more: packed halves, dots, mixed precision, matrices."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import FlatCard
from tests.unit.softcard.amd.isa.lanes import (
    COUNT,
    RESULT,
    SOURCES,
    assert_same,
    random_operands,
    run_lanes,
)
from tests.unit.softcard.amd.isa.references import fma

from exosuit.silicon.amd.isa.encodings import Vopd
from exosuit.silicon.amd.isa.opcodes import opcode

S0, S1, S2 = (a.V + register for register in SOURCES)


@pytest.fixture(scope="module")
def card() -> FlatCard:
    return FlatCard()


# Pairs and dots --------------------------------------------------------------------------------


def halves(x: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    return tuple((x >> s & 0xFFFF).astype(np.uint16).view(dtype) for s in (0, 16))


def joined(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    words = [v.view(np.uint16).astype(np.uint32) for v in (low, high)]
    return words[0] | words[1] << 16


@pytest.mark.parametrize(
    ("name", "dtype", "function"),
    [
        ("v_pk_add_f16", np.float16, np.add), ("v_pk_mul_f16", np.float16, np.multiply),
        ("v_pk_fma_f16", np.float16, fma(np.float16)),
        ("v_pk_add_u16", np.uint16, np.add), ("v_pk_sub_i16", np.int16, np.subtract),
        ("v_pk_mul_lo_u16", np.uint16, np.multiply),
        ("v_pk_mad_i16", np.int16, lambda p, q, r: p * q + r),
        ("v_pk_max_i16", np.int16, np.maximum), ("v_pk_min_u16", np.uint16, np.minimum),
        ("v_pk_lshlrev_b16", np.uint16, lambda n, x: x << (n & 15)),
        ("v_pk_ashrrev_i16", np.int16, lambda n, x: x >> (n & 15)),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("low_from", "high_from"), [(0, 7), (0b011, 0b101)])
def test_packed(card, name, dtype, function, low_from, high_from):
    count = 3 if name in ("v_pk_fma_f16", "v_pk_mad_i16") else 2
    values = [
        joined(*random_operands([np.dtype(dtype).kind + "16"] * 2, seed)) for seed in range(count)
    ]
    code = a.vop("VOP3P", name, RESULT, [S0, S1, S2][:count], op_sel=low_from, op_sel_hi=high_from)
    found = halves(run_lanes(card, code, values, "u32"), dtype)
    with np.errstate(all="ignore"):
        for part, chosen in zip(found, (low_from, high_from), strict=True):
            picked = [halves(v, dtype)[chosen >> k & 1] for k, v in enumerate(values)]
            assert_same(part, function(*picked).astype(dtype), picked)


@pytest.mark.parametrize("signs", range(4))
@pytest.mark.parametrize(("name", "bits"), [("v_dot4_i32_iu8", 8), ("v_dot8_i32_iu4", 4)])
def test_integer_dots(card, name, bits, signs):
    x, y, z = random_operands(["u32", "u32", "u32"], 9)
    code = a.vop("VOP3P", name, RESULT, [S0, S1, S2], neg=signs, op_sel_hi=7)
    total = z.astype(np.int64)
    for shift in range(0, 32, bits):
        factors = []
        for k, v in enumerate((x, y)):
            field = (v >> shift & (1 << bits) - 1).astype(np.int64)
            signed = field - (field >> (bits - 1) << bits)
            factors.append(signed if signs >> k & 1 else field)
        total += factors[0] * factors[1]
    found = run_lanes(card, code, [x, y, z], "u32")
    np.testing.assert_array_equal(found, (total & 0xFFFFFFFF).astype(np.uint32))


def bfloat(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("name", ["v_dot2_f32_f16", "v_dot2_f32_bf16"])
def test_half_dots(card, name):
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(4, COUNT)).astype(np.float32)
    if name.endswith("bf16"):
        bits = (parts.view(np.uint32) >> 16).astype(np.uint16)
        values = [bfloat(b).astype(np.float64) for b in bits]
    else:
        bits = parts.astype(np.float16).view(np.uint16)
        values = [b.view(np.float16).astype(np.float64) for b in bits]
    c = rng.normal(size=COUNT).astype(np.float32)
    code = a.vop("VOP3P", name, RESULT, [S0, S1, S2], op_sel_hi=7)
    found = run_lanes(card, code, [joined(*bits[:2]), joined(*bits[2:]), c], "f32")
    exact = values[0] * values[2] + values[1] * values[3] + c
    assert np.abs(found - exact).max() < 4e-6


@pytest.mark.parametrize("two", [False, True])
def test_half_dots_accumulate(card, two):
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(4, COUNT)).astype(np.float16)
    words = [joined(*(p.view(np.uint16) for p in pair)) for pair in (parts[:2], parts[2:])]
    old = rng.normal(size=COUNT).astype(np.float32)
    code = a.vop("VOP2", "v_dot2acc_f32_f16", RESULT, [S0, S1])
    if two:
        code = Vopd.make(
            opx=opcode("VOPDX", "v_dual_dot2acc_f32_f16"), opy=opcode("VOPDY", "v_dual_mov_b32"),
            srcx0=S0, vsrcx1=S1 - a.V, srcy0=128, vdstx=RESULT, vdsty=14,
        ).encode()  # fmt: skip
    found = run_lanes(card, code, words, "f32", old=old)
    wide = parts.astype(np.float64)
    assert np.abs(found - (wide[0] * wide[2] + wide[1] * wide[3] + old)).max() < 4e-6


def test_mixed_precision(card):
    x, y, z = random_operands(["f16", "f32", "f32"], 7)
    words = joined(x, x[::-1])
    code = a.vop("VOP3P", "v_fma_mix_f32", RESULT, [S0, S1, S2], op_sel=1, op_sel_hi=1, neg=4)
    expected = fma(np.float32)(x[::-1].astype(np.float32), y, -z)
    assert_same(run_lanes(card, code, [words, y, z], "f32"), expected, [x, y, z])
    code = a.vop("VOP3P", "v_fma_mixhi_f16", RESULT, [S0, S1, S2], op_sel_hi=1)
    old = np.full(COUNT, 0x12345678, np.uint32)
    found = run_lanes(card, code, [words, y, z], "u32", old=old)
    assert ((found & 0xFFFF) == 0x5678).all()
    with np.errstate(all="ignore"):
        expected_half = fma(np.float32)(x.astype(np.float32), y, z).astype(np.float16)
    assert_same(halves(found, np.float16)[1], expected_half, [x, y, z])


# Matrices --------------------------------------------------------------------------------------


def spread_matrix(matrix: np.ndarray, per_word: int) -> np.ndarray:
    """A (rows) or B (columns, transposed) as registers [16 / per_word, 32] of u32."""
    bits = matrix.view(f"u{matrix.itemsize}").astype(np.uint32)
    words = np.zeros((16 // per_word, 32), np.uint32)
    for lane in range(32):
        for k in range(16):
            words[k // per_word, lane] |= bits[lane % 16, k] << (32 // per_word) * (k % per_word)
    return words


def run_matrices(card, name, registers_a, registers_b, c, flags):
    """D as [8, 32] of u32, from the registers of A, B and C."""
    card.top = 4096
    count = len(registers_a)
    rows = np.concatenate([registers_a, registers_b, c])
    source = card.place(np.ascontiguousarray(rows))
    target = card.place(np.zeros((8, 32), np.uint32))
    user = [source & 0xFFFFFFFF, source >> 32, target & 0xFFFFFFFF, target >> 32]
    code = a.vop("VOP2", "v_lshlrev_b32", 1, [130, a.V])
    places = [*range(16, 16 + count), *range(32, 32 + count), *range(48, 56)]
    for k, register in enumerate(places):
        code += a.load(register, 1, 0, offset=128 * k)
    code += a.vop("VOP3P", name, 48, [a.V + 16, a.V + 32, a.V + 48], **flags)
    for z in range(8):
        code += a.store(48 + z, 1, 2, offset=128 * z)
    card.run_code(code + a.END, user)
    return card.read(target, np.uint32, 256).reshape(8, 32)


def gathered(registers: np.ndarray) -> np.ndarray:
    """The 16 by 16 matrix of C's registers."""
    matrix = np.zeros((16, 16), registers.dtype)
    for z in range(8):
        for lane in range(32):
            matrix[2 * z + lane // 16, lane % 16] = registers[z, lane]
    return matrix


def spread_c(matrix: np.ndarray) -> np.ndarray:
    registers = np.zeros((8, 32), matrix.dtype)
    for z in range(8):
        for lane in range(32):
            registers[z, lane] = matrix[2 * z + lane // 16, lane % 16]
    return registers


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_float_matrices(card, kind):
    rng = np.random.default_rng(3)
    x, y, c = (rng.normal(size=(16, 16)).astype(np.float32) for _ in range(3))
    if kind == "f16":
        p, q = x.astype(np.float16), y.astype(np.float16)
        exact = p.astype(np.float64) @ q.astype(np.float64) + c
    else:
        p, q = ((v.view(np.uint32) >> 16).astype(np.uint16) for v in (x, y))
        exact = bfloat(p).astype(np.float64) @ bfloat(q).astype(np.float64) + c
    registers = [spread_matrix(np.ascontiguousarray(v), 2) for v in (p, q.T)]
    found = run_matrices(
        card, f"v_wmma_f32_16x16x16_{kind}", *registers, spread_c(c).view(np.uint32),
        {"op_sel_hi": 7},
    )  # fmt: skip
    assert np.abs(gathered(found.view(np.float32)) - exact).max() < 1e-5


@pytest.mark.parametrize("high", [0, 1])
def test_half_results(card, high):
    rng = np.random.default_rng(3)
    p, q, c = (rng.normal(size=(16, 16)).astype(np.float16) for _ in range(3))
    registers = [spread_matrix(np.ascontiguousarray(v), 2) for v in (p, q.T)]
    words = spread_c(c).view(np.uint16).astype(np.uint32) << 16 * high | (0x3333 << 16 * (1 - high))
    found = run_matrices(
        card, "v_wmma_f16_16x16x16_f16", *registers, words.astype(np.uint32),
        {"op_sel": 4 * high, "op_sel_hi": 7},
    )  # fmt: skip
    assert ((found >> 16 * (1 - high) & 0xFFFF) == 0x3333).all()
    result = gathered((found >> 16 * high & 0xFFFF).astype(np.uint16).view(np.float16))
    exact = p.astype(np.float64) @ q.astype(np.float64) + c
    assert np.abs(result - exact).max() < 0.01


@pytest.mark.parametrize("signs", range(4))
@pytest.mark.parametrize("bits", [8, 4])
def test_integer_matrices(card, bits, signs):
    rng = np.random.default_rng(4)
    raw = rng.integers(0, 1 << bits, (2, 16, 16))
    c = rng.integers(-1000, 1000, (16, 16)).astype(np.int32)
    factors = [v - (v >> (bits - 1) << bits) if signs >> k & 1 else v for k, v in enumerate(raw)]
    registers = [
        spread_matrix(np.ascontiguousarray(v.astype(np.uint8)), 32 // bits)
        for v in (raw[0], raw[1].T)
    ]
    found = run_matrices(
        card, f"v_wmma_i32_16x16x16_iu{bits}", *registers, spread_c(c).view(np.uint32),
        {"neg": signs, "op_sel_hi": 7},
    )  # fmt: skip
    np.testing.assert_array_equal(gathered(found.view(np.int32)), factors[0] @ factors[1] + c)
