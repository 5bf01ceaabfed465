"""Vector instructions as such: modifiers, modes, approximations, carries, compares, choices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import FlatCard
from tests.unit.softcard.amd.isa.lanes import (
    COUNT,
    RESULT,
    SOURCES,
    assert_same,
    edges,
    operands,
    random_operands,
    run_lanes,
)
from tests.unit.softcard.amd.isa.references import fma

from exosuit.silicon.amd.code import Rsrc1
from exosuit.silicon.amd.isa.encodings import Vopd
from exosuit.silicon.amd.isa.opcodes import opcode
from exosuit.silicon.amd.isa.operands import EXEC, LITERAL, VCC, VECTOR
from exosuit.softcard.amd.isa.shaders import ShaderFault

S0, S1, S2 = (a.V + register for register in SOURCES)


@pytest.fixture(scope="module")
def card() -> FlatCard:
    return FlatCard()


def floats(*kinds: str) -> list[np.ndarray]:
    return random_operands(list(kinds), 7)


# Modifiers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("neg", range(4))
@pytest.mark.parametrize("absolute", range(4))
def test_signs(card, neg, absolute):
    x, y = floats("f32", "f32")
    code = a.vop("VOP3", "v_add_f32", RESULT, [S0, S1], neg=neg, abs=absolute)
    p, q = (np.abs(v) if absolute >> k & 1 else v for k, v in enumerate((x, y)))
    p, q = (-v if neg >> k & 1 else v for k, v in enumerate((p, q)))
    with np.errstate(all="ignore"):
        assert_same(run_lanes(card, code, [x, y], "f32"), p + q, [x, y])


@pytest.mark.parametrize(("omod", "factor"), [(1, 2), (2, 4), (3, 0.5)])
@pytest.mark.parametrize("clamp", [False, True])
def test_output_is_scaled_and_clamped(card, omod, factor, clamp):
    x, y = operands(["f32", "f32"])
    code = a.vop("VOP3", "v_mul_f32", RESULT, [S0, S1], omod=omod, clamp=clamp)
    with np.errstate(all="ignore"):
        expected = x * y * np.float32(factor)
        if clamp:
            expected = np.where(expected > 0, np.minimum(expected, 1), 0).astype(np.float32)
    assert_same(run_lanes(card, code, [x, y], "f32"), expected, [x, y])


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("v_add_nc_u32", "u32", lambda p, q: min(p + q, 2**32 - 1)),
        ("v_sub_nc_u32", "u32", lambda p, q: max(p - q, 0)),
        ("v_add_nc_i32", "i32", lambda p, q: max(-(2**31), min(p + q, 2**31 - 1))),
        ("v_sub_nc_i16", "i16", lambda p, q: max(-(2**15), min(p - q, 2**15 - 1))),
    ],
)
def test_integers_saturate(card, name, kind, function):
    x, y = operands([kind, kind])
    code = a.vop("VOP3", name, RESULT, [S0, S1], clamp=True)
    expected = np.array([function(int(p), int(q)) for p, q in zip(x, y, strict=True)], x.dtype)
    assert_same(run_lanes(card, code, [x, y], kind), expected, [x, y])


def test_halves_are_chosen(card):
    x, y = random_operands(["u32", "u32"], 1)
    code = a.vop("VOP3", "v_add_nc_u16", RESULT, [S0, S1], op_sel=0b1001)
    old = np.full(COUNT, 0x11112222, np.uint32)
    found = run_lanes(card, code, [x, y], "u32", old=old)
    expected = (((x >> 16) + (y & 0xFFFF)) << 16).astype(np.uint32) | np.uint32(0x2222)
    np.testing.assert_array_equal(found, expected)
    # In the short encodings bit 7 of a register's number is the half.
    code = a.vop("VOP1", "v_cvt_f32_f16", RESULT, [a.V + SOURCES[0] + 128])
    found = run_lanes(card, code, [x], "f32")
    assert_same(found, (x >> 16).astype(np.uint16).view(np.float16).astype(np.float32), [x])
    code = a.vop("VOP1", "v_mov_b16", RESULT + 128, [S0])
    found = run_lanes(card, code, [x], "u32", old=old)
    np.testing.assert_array_equal(found, (x << 16) | np.uint32(0x2222))


def test_literals_and_scalars(card):
    (x,) = floats("f32")
    code = a.vop("VOP2", "v_fmaak_f32", RESULT, [S0, S0], literal=0x40490FDB)
    expected = fma(np.float32)(x, x, np.full(COUNT, np.uint32(0x40490FDB)).view(np.float32))
    assert_same(run_lanes(card, code, [x], "f32"), expected, [x])
    code = a.vop("VOP2", "v_fmamk_f32", RESULT, [242, S0], literal=0x40490FDB)
    expected = fma(np.float32)(
        np.ones(COUNT, np.float32), np.full(COUNT, np.uint32(0x40490FDB)).view(np.float32), x
    )
    assert_same(run_lanes(card, code, [x], "f32"), expected, [x])
    code = a.move(30, 0x7FFFFFFF) + a.vop("VOP2", "v_and_b32", RESULT, [30, S0])
    assert_same(run_lanes(card, code, [x], "f32"), np.abs(x), [x])
    code = a.vop("VOP3", "v_add_f64", RESULT, [LITERAL, 242], literal=0x40080000)
    found = run_lanes(card, code, [x], "f64")
    assert (found == 4.0).all()


@pytest.mark.parametrize("name", ["v_fmac_f32", "v_fmac_f16"])
def test_accumulation(card, name):
    kind = name[-3:]
    x, y, old = floats(kind, kind, kind)
    found = run_lanes(card, a.vop("VOP2", name, RESULT, [S0, S1]), [x, y], kind, old=old)
    assert_same(found, fma(x.dtype.type)(x, y, old), [x, y, old])


# Modes ----------------------------------------------------------------------------------------


def test_denormals_are_flushed_where_the_mode_says(card):
    tiny = np.float32(1e-41)
    x = np.full(COUNT, tiny)
    code = a.vop("VOP2", "v_add_f32", RESULT, [S0, S0])
    for mode, expected in ((0xF0, tiny + tiny), (0xC0, np.float32(0))):
        rsrc1 = int(Rsrc1(float_mode=mode, ieee_mode=True, dx10_clamp=True))
        assert (run_lanes(card, code, [x], "f32", rsrc1=rsrc1) == expected).all()
    half = np.full(COUNT, np.float16(3e-7))
    code = a.vop("VOP2", "v_add_f16", RESULT, [S0, S0])
    for mode, expected in ((0xF0, half[0] + half[0]), (0x30, np.float16(0))):
        rsrc1 = int(Rsrc1(float_mode=mode, ieee_mode=True, dx10_clamp=True))
        assert (run_lanes(card, code, [half], "f16", rsrc1=rsrc1) == expected).all()


def test_the_mode_changes_for_a_while(card):
    """Denormals are kept between the two, as compilers do around a division."""
    tiny = np.float32(1e-41)
    x = np.full(COUNT, tiny)
    flushing = int(Rsrc1(float_mode=0xC0, ieee_mode=True, dx10_clamp=True))
    add = a.vop("VOP2", "v_add_f32", RESULT, [S0, S0])
    code = a.sopp("s_denorm_mode", 15) + add + a.sopp("s_denorm_mode", 12)
    assert (run_lanes(card, code, [x], "f32", rsrc1=flushing) == tiny + tiny).all()
    with pytest.raises(ShaderFault, match="illegal instruction"):
        run_lanes(card, a.sopp("s_denorm_mode", 15) + add, [x], "f32", rsrc1=flushing)


def test_without_ieee_mode_a_signalling_nan_is_any_nan(card):
    x = np.full(COUNT, np.uint32(0x7F800001)).view(np.float32)
    y = np.full(COUNT, np.float32(2))
    code = a.vop("VOP2", "v_min_f32", RESULT, [S0, S1])
    quiet = run_lanes(card, code, [x, y], "f32", rsrc1=int(Rsrc1(float_mode=0xF0)))
    assert (quiet == 2).all()
    assert np.isnan(run_lanes(card, code, [x, y], "f32")).all()


def test_rounding_otherwise_is_refused(card):
    with pytest.raises(ShaderFault, match="rounds"):
        card.run_code(a.END, rsrc1=int(Rsrc1(float_mode=0xF1)))


# Approximations --------------------------------------------------------------------------------


def spread(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, COUNT).astype(np.float32)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found - exact) / np.maximum(np.abs(exact), 2.0**-126)))


@pytest.mark.parametrize(
    ("name", "x", "function"),
    [
        ("v_exp_f32", spread(-125, 127.9), np.exp2),
        ("v_log_f32", np.exp2(spread(-125, 127.9)), np.log2),
        ("v_rcp_f32", spread(-50, 51), lambda x: 1 / x),
        ("v_rsq_f32", spread(0.001, 900), lambda x: 1 / np.sqrt(x)),
        ("v_sqrt_f32", spread(0.001, 900), np.sqrt),
    ],
)
def test_one_unit_in_the_last_place(card, name, x, function):
    found = run_lanes(card, a.vop("VOP1", name, RESULT, [S0]), [x], "f32")
    assert relative_error(found, function(x.astype(np.float64))) < 2.0**-23


@pytest.mark.parametrize(("name", "function"), [("v_sin_f32", np.sin), ("v_cos_f32", np.cos)])
def test_angles_in_revolutions(card, name, function):
    x = spread(-200, 200)
    found = run_lanes(card, a.vop("VOP1", name, RESULT, [S0]), [x], "f32")
    exact = function(2 * math.pi * (x.astype(np.float64) - np.round(x.astype(np.float64))))
    assert np.abs(found - exact).max() < 1e-7


def test_special_values_of_approximations(card):
    inf, nan = math.inf, math.nan
    x = np.resize(np.array([0.0, -0.0, inf, -inf, nan, -1.0, 1e-40, 200, -200], np.float32), COUNT)
    expected = {
        "v_exp_f32": [1, 1, inf, 0, nan, 0.5, 1, inf, 0],
        "v_log_f32": [-inf, -inf, inf, nan, nan, nan, -inf, math.log2(200), nan],
        "v_rcp_f32": [inf, -inf, 0, -0.0, nan, -1, inf, 1 / 200, -1 / 200],
        "v_rsq_f32": [inf, -inf, 0, nan, nan, nan, inf, 200**-0.5, nan],
    }
    for name, row in expected.items():
        found = run_lanes(card, a.vop("VOP1", name, RESULT, [S0]), [x], "f32")
        np.testing.assert_allclose(found[: len(row)], row, rtol=2e-7, err_msg=name)


@pytest.mark.parametrize("values", [operands, lambda kinds: random_operands(kinds, 5)])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_division_as_compilers_write_it(card, kind, values):
    """The sequence of div_scale, rcp, fma, div_fmas and div_fixup is exact to the last bit."""
    x, y = values([kind, kind])
    # v[26] scaled denominator, v[28] scaled numerator, v[30] reciprocal, v[32..36] steps
    step = 2 if kind == "f64" else 1
    n, d, r, q, t = (a.V + k for k in (26, 28, 30, 32, 34))

    def op(name: str, to: int, *sources: int, **fields: int) -> bytes:
        return a.vop("VOP3", f"v_{name}_{kind}", to - a.V, list(sources), **fields)

    code = op("div_scale", d, S1, S1, S0, sdst=124)
    code += op("div_scale", n, S0, S1, S0, sdst=VCC)
    code += a.vop("VOP1", f"v_rcp_{kind}", r - a.V, [d])
    for _ in range(step):  # Newton's steps of the reciprocal
        code += op("fma", t, d, r, 242, neg=1) + op("fma", r, t, r, r)
    code += op("mul", q, n, r) + op("fma", t, d, q, n, neg=1)
    if kind == "f32":
        code += op("fma", q, t, r, q) + op("fma", t, d, q, n, neg=1)
    code += op("div_fmas", q, t, r, q) + op("div_fixup", a.V + RESULT, q, S1, S0)
    with np.errstate(all="ignore"):
        found, expected = run_lanes(card, code, [x, y], kind), x / y
        if kind == "f64":  # denormal quotients are rounded twice: at most one step off
            small = np.abs(expected) < np.finfo(np.float64).smallest_normal
            assert (np.abs(found - expected)[small] <= 5e-324).all()
            found[small] = expected[small]
    assert_same(found, expected, [x, y])


# Carries, compares, choices --------------------------------------------------------------------


def carried(card, first, second):
    """Two results of 64-bit arithmetic from two instructions: low and high halves."""
    x, y = random_operands(["u64", "u64"], 3)
    x[::5], y[::5] = 0xFFFFFFFFFFFFFFFF, 1
    return x, y, run_lanes(card, first + second, [x, y], "u64")


def test_addition_with_carry(card):
    first = a.vop("VOP3", "v_add_co_u32", RESULT, [S0, S1], sdst=VCC)
    second = a.vop("VOP2", "v_add_co_ci_u32", RESULT + 1, [S0 + 1, S1 + 1])
    x, y, found = carried(card, first, second)
    np.testing.assert_array_equal(found, x + y)


@pytest.mark.parametrize("reverse", [False, True])
def test_subtraction_with_borrow(card, reverse):
    word = "subrev" if reverse else "sub"
    first = a.vop("VOP3", f"v_{word}_co_u32", RESULT, [S0, S1], sdst=20)
    second = a.vop("VOP3", f"v_{word}_co_ci_u32", RESULT + 1, [S0 + 1, S1 + 1, 20], sdst=124)
    x, y, found = carried(card, first, second)
    np.testing.assert_array_equal(found, y - x if reverse else x - y)


def test_wide_multiply_add(card):
    x, y, z = random_operands(["u32", "u32", "u64"], 4)
    code = a.vop("VOP3", "v_mad_u64_u32", RESULT, [S0, S1, S2], sdst=124)
    found = run_lanes(card, code, [x, y, z], "u64")
    np.testing.assert_array_equal(found, x.astype(np.uint64) * y + z)
    code = a.vop("VOP3", "v_mad_i64_i32", RESULT, [S0, S1, S2], sdst=124)
    found = run_lanes(card, code, [x.view(np.int32), y.view(np.int32), z], "u64")
    product = x.view(np.int32).astype(np.int64) * y.view(np.int32)
    np.testing.assert_array_equal(found, product.view(np.uint64) + z)


RELATIONS = {
    "lt": lambda x, y: x < y, "eq": lambda x, y: x == y, "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y,
    "lg": lambda x, y: (x < y) | (x > y), "ne": lambda x, y: x != y,
    "o": lambda x, y: ~(np.isnan(x) | np.isnan(y)), "u": lambda x, y: np.isnan(x) | np.isnan(y),
    "nge": lambda x, y: ~(x >= y), "nlg": lambda x, y: ~((x < y) | (x > y)),
    "ngt": lambda x, y: ~(x > y), "nle": lambda x, y: ~(x <= y), "neq": lambda x, y: x != y,
    "nlt": lambda x, y: ~(x < y),
}  # fmt: skip
COMPARES = [
    (relation, kind)
    for kind in ("f16", "f32", "f64", "i16", "u16", "i32", "u32", "i64", "u64")
    for relation in (
        ("lt", "eq", "le", "gt", "lg", "ge", "o", "u", "nge", "nlg", "ngt", "nle", "neq", "nlt")
        if kind[0] == "f" else ("lt", "eq", "le", "gt", "ne", "ge")
    )
]  # fmt: skip
CHOOSE = a.vop("VOP3", "v_cndmask_b32", RESULT, [128, 129, VCC])
"""1 in the lanes whose bit of VCC is set."""


@pytest.mark.parametrize(("relation", "kind"), COMPARES)
def test_compares(card, relation, kind):
    values = operands([kind, kind])
    code = a.vop("VOPC", f"v_cmp_{relation}_{kind}", 0, [S0, S1]) + CHOOSE
    found = run_lanes(card, code, values, "u32")
    np.testing.assert_array_equal(found, RELATIONS[relation](*values))
    code = a.vop("VOP3", f"v_cmp_{relation}_{kind}", 20, [S0, S1])
    code += a.vop("VOP3", "v_cndmask_b32", RESULT, [128, 129, 20])
    np.testing.assert_array_equal(run_lanes(card, code, values, "u32"), found)


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_classes(card, kind):
    values = np.resize(edges(kind), COUNT)
    word = f"u{values.itemsize}"
    mantissa = {2: 10, 4: 23, 8: 52}[values.itemsize]
    bits = values.view(word).astype(object)
    negative = np.signbit(values)
    smallest = np.finfo(values.dtype).smallest_normal
    quiet = np.array([b >> (mantissa - 1) & 1 for b in bits], bool)
    classes = [
        np.isnan(values) & ~quiet, np.isnan(values) & quiet, np.isneginf(values),
        np.isfinite(values) & negative & (np.abs(values) >= smallest),
        negative & (np.abs(values) < smallest) & (values != 0), negative & (values == 0),
        ~negative & (values == 0), ~negative & (values < smallest) & (values != 0),
        np.isfinite(values) & ~negative & (values >= smallest), np.isposinf(values),
    ]  # fmt: skip
    for bit, expected in enumerate(classes):
        code = a.vop("VOP1", "v_mov_b32", SOURCES[1], [LITERAL], literal=1 << bit)
        code += a.vop("VOPC", f"v_cmp_class_{kind}", 0, [S0, S1]) + CHOOSE
        found = run_lanes(card, code, [values], "u32")
        np.testing.assert_array_equal(found, expected, err_msg=f"class {bit} of {kind}")


def test_choice_with_signs(card):
    x, y = floats("f32", "f32")
    code = a.move(20, 0x0F0F0F0F)
    code += a.vop("VOP3", "v_cndmask_b32", RESULT, [S0, S1, 20], neg=1, abs=2)
    chosen = (0x0F0F0F0F >> np.arange(COUNT) % 32) & 1
    assert_same(run_lanes(card, code, [x, y], "f32"), np.where(chosen, np.abs(y), -x), [x, y])


def test_compare_into_the_mask(card):
    """v_cmpx turns lanes off: they keep what they had."""
    (x,) = random_operands(["u32"], 1)
    code = a.vop("VOPC", "v_cmpx_gt_u32", 0, [LITERAL, S0], literal=1 << 31)
    code += a.vop("VOP1", "v_mov_b32", RESULT, [S0]) + a.sop1("s_mov_b32", EXEC, 193)
    old = np.full(COUNT, 77, np.uint32)
    found = run_lanes(card, code, [x], "u32", old=old)
    np.testing.assert_array_equal(found, np.where(x < 1 << 31, x, 77))


def test_both_halves_of_a_dual_read_before_either_writes(card):
    x, y = floats("f32", "f32")
    code = a.vop("VOP1", "v_mov_b32", 24, [S0]) + a.vop("VOP1", "v_mov_b32", 25, [S1])
    code += Vopd.make(  # v24, v25 = v25, v24
        opx=opcode("VOPDX", "v_dual_mov_b32"), opy=opcode("VOPDY", "v_dual_mov_b32"),
        srcx0=VECTOR + 25, srcy0=VECTOR + 24, vdstx=24, vdsty=12,
    ).encode()  # fmt: skip
    found = run_lanes(card, code, [x, y], "u64")
    np.testing.assert_array_equal((found & 0xFFFFFFFF).astype(np.uint32), y.view(np.uint32))
    np.testing.assert_array_equal((found >> 32).astype(np.uint32), x.view(np.uint32))
