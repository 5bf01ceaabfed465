"""Scalar instructions against Python's integers: results and the condition bit."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import FlatCard
from tests.unit.softcard.amd.isa.references import M32, M64, bit_field_signed, cls, clz, s32

from exosuit.silicon.amd.isa.operands import EXEC, LITERAL, VCC

EDGES = [0, 1, 2, 5, 31, 32, 63, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFF, 0xFFFFFFFE, M32,
         0x12345678, 0x00100008, 0x0020001F]  # fmt: skip
A, B, D = 20, 22, 24


@pytest.fixture(scope="module")
def card() -> FlatCard:
    return FlatCard()


def run_scalar(card, code, *values, wide=False):
    """D (one register or two) and the condition bit after `code`, for given s[20:21], s[22:23]."""
    card.top = 4096
    out = card.place(np.zeros(32 * 4, np.uint32))
    setup = b"".join(
        a.move(register + k, value >> 32 * k)
        for register, value in zip((A, B, D), values, strict=False)
        for k in (0, 1)
    )
    code = setup + code + a.sop2("s_cselect_b32", 30, 129, 128)
    code += a.vop("VOP2", "v_lshlrev_b32", 1, [130, a.V])
    for k, register in enumerate((D, D + 1, 30)):
        code += a.vop("VOP1", "v_mov_b32", 2, [register]) + a.store(2, 1, 0, offset=128 * k)
    card.run_code(code + a.END, [out & M32, out >> 32])
    low, high, scc = card.read(out, np.uint32, 96).reshape(3, 32)[:, 0].tolist()
    return (high << 32 | low if wide else low), scc


def s64(x: int) -> int:
    return (x & M64) - (1 << 64 if x >> 63 & 1 else 0)


def field(x: int, where: int) -> int:
    return (x >> (where & 31)) & ((1 << (where >> 16 & 127)) - 1) & M32


def every_other(x: int) -> int:
    return sum((x >> k & 1) * 3 << 2 * k for k in range(32))


# name: result; and whether the condition bit is "result is not zero", a function, or kept (None)
TWO = {
    "s_add_u32": (lambda x, y: x + y, lambda x, y: x + y > M32),
    "s_sub_u32": (lambda x, y: x - y, lambda x, y: x < y),
    "s_add_i32": (lambda x, y: x + y, lambda x, y: s32(x) + s32(y) != s32(x + y)),
    "s_sub_i32": (lambda x, y: x - y, lambda x, y: s32(x) - s32(y) != s32(x - y)),
    "s_absdiff_i32": (lambda x, y: abs(s32(s32(x) - s32(y))), "result"),
    "s_min_i32": (lambda x, y: min(s32(x), s32(y)), lambda x, y: s32(x) < s32(y)),
    "s_max_i32": (lambda x, y: max(s32(x), s32(y)), lambda x, y: s32(x) >= s32(y)),
    "s_min_u32": (min, lambda x, y: x < y),
    "s_max_u32": (max, lambda x, y: x >= y),
    "s_and_b32": (lambda x, y: x & y, "result"),
    "s_or_b32": (lambda x, y: x | y, "result"),
    "s_xor_b32": (lambda x, y: x ^ y, "result"),
    "s_nand_b32": (lambda x, y: ~(x & y), "result"),
    "s_nor_b32": (lambda x, y: ~(x | y), "result"),
    "s_xnor_b32": (lambda x, y: ~(x ^ y), "result"),
    "s_and_not1_b32": (lambda x, y: x & ~y, "result"),
    "s_or_not1_b32": (lambda x, y: x | ~y, "result"),
    "s_lshl_b32": (lambda x, n: x << (n & 31), "result"),
    "s_lshr_b32": (lambda x, n: x >> (n & 31), "result"),
    "s_ashr_i32": (lambda x, n: s32(x) >> (n & 31), "result"),
    "s_mul_i32": (lambda x, y: x * y, None),
    "s_mul_hi_u32": (lambda x, y: x * y >> 32, None),
    "s_mul_hi_i32": (lambda x, y: s32(x) * s32(y) >> 32, None),
    "s_bfm_b32": (lambda n, at: ((1 << (n & 31)) - 1) << (at & 31), None),
    "s_lshl3_add_u32": (lambda x, y: (x << 3) + y, lambda x, y: (x << 3) + y > M32),
    "s_pack_ll_b32_b16": (lambda x, y: x & 0xFFFF | y << 16, None),
    "s_pack_lh_b32_b16": (lambda x, y: x & 0xFFFF | y & 0xFFFF0000, None),
    "s_pack_hh_b32_b16": (lambda x, y: x >> 16 | y & 0xFFFF0000, None),
}
ONE = {
    "s_not_b32": (lambda x: ~x, "result"),
    "s_brev_b32": (lambda x: int(f"{x:032b}"[::-1], 2), None),
    "s_ctz_i32_b32": (lambda x: (x & -x).bit_length() - 1, None),
    "s_clz_i32_u32": (clz, None),
    "s_cls_i32": (cls, None),
    "s_abs_i32": (lambda x: abs(s32(x)), "result"),
    "s_bcnt0_i32_b32": (lambda x: 32 - x.bit_count(), "result"),
    "s_bcnt1_i32_b32": (lambda x: x.bit_count(), "result"),
    "s_sext_i32_i8": (lambda x: (x & 255) - (256 if x & 128 else 0), None),
    "s_sext_i32_i16": (lambda x: (x & 0xFFFF) - (0x10000 if x & 0x8000 else 0), None),
    "s_quadmask_b32": (lambda x: sum(bool(x >> 4 * k & 15) << k for k in range(8)), "result"),
    "s_wqm_b32": (lambda x: sum(15 * bool(x >> 4 * k & 15) << 4 * k for k in range(8)), "result"),
}


def check(found, result, condition, values):
    value, scc = found
    expected = result(*values) & M32
    assert value == expected, (values, hex(value), hex(expected))
    wanted = (
        1 if condition is None else expected != 0 if condition == "result" else condition(*values)
    )
    assert scc == wanted, values


SET_SCC = a.sopc("s_cmp_eq_u32", 128, 128)


@pytest.mark.parametrize("name", TWO)
def test_two_operands(card, name):
    result, condition = TWO[name]
    for x, y in zip(EDGES, EDGES[5:] + EDGES[:5], strict=True):
        code = SET_SCC + a.sop2(name, D, A, B)
        check(run_scalar(card, code, x, y), result, condition, (x, y))


@pytest.mark.parametrize("name", ONE)
def test_one_operand(card, name):
    result, condition = ONE[name]
    for x in EDGES[::2]:
        check(run_scalar(card, SET_SCC + a.sop1(name, D, A), x), result, condition, (x,))


@pytest.mark.parametrize("where", [0x00080004, 0x00200000, 0x0000001F, 0x001F0001, 0x000C0018])
def test_bit_fields(card, where):
    x = 0x89ABCDEF
    code = a.sop2("s_bfe_u32", D, A, B)
    assert run_scalar(card, code, x, where)[0] == field(x, where)
    code = a.sop2("s_bfe_i32", D, A, B)
    width = where >> 16 & 127
    signed = s32(x) >> (where & 31) if width == 32 else bit_field_signed(x, where & 31, width)
    assert run_scalar(card, code, x, where)[0] == signed & M32


WIDE = {
    "s_lshl_b64": lambda x, n: x << (n & 63), "s_lshr_b64": lambda x, n: x >> (n & 63),
    "s_ashr_i64": lambda x, n: s64(x) >> (n & 63), "s_and_b64": lambda x, y: x & y,
    "s_or_b64": lambda x, y: x | y, "s_xor_b64": lambda x, y: x ^ y,
    "s_and_not1_b64": lambda x, y: x & ~y,
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_wide_operands(card, name):
    for x, y in ((0x8000000012345678, 4), (0x7FFFFFFFFFFFFFFF, 33), (0, 0), (M64, 0xF0F0F0F00F0F)):
        value, scc = run_scalar(card, a.sop2(name, D, A, B), x, y, wide=True)
        assert value == WIDE[name](x, y) & M64
        assert scc == (value != 0)


def test_moves_of_pairs(card):
    x = 0xFEDCBA9876543210
    assert run_scalar(card, a.sop1("s_mov_b64", D, A), x, wide=True)[0] == x
    assert run_scalar(card, a.sop1("s_mov_b64", D, 193), wide=True)[0] == M64
    assert run_scalar(card, a.sop1("s_not_b64", D, A), x, wide=True)[0] == ~x & M64
    code = a.sop1("s_bitreplicate_b64_b32", D, A)
    assert run_scalar(card, code, 0x80000005, wide=True)[0] == every_other(0x80000005)
    assert run_scalar(card, a.sop1("s_bcnt1_i32_b64", D, A), x)[0] == x.bit_count()
    assert run_scalar(card, a.sop1("s_ctz_i32_b64", D, A), 1 << 40)[0] == 40
    assert run_scalar(card, a.sop1("s_clz_i32_u64", D, A), 0)[0] == M32


@pytest.mark.parametrize("carry", [0, 1])
def test_carries(card, carry):
    start = a.sopc("s_cmp_eq_u32", 128 + carry, 129)
    for x, y in ((M32, 0), (M32, M32), (5, 6), (0, 0), (3, 4)):
        total = x + y + carry
        found = run_scalar(card, start + a.sop2("s_addc_u32", D, A, B), x, y)
        assert found == (total & M32, total > M32)
        rest = x - y - carry
        found = run_scalar(card, start + a.sop2("s_subb_u32", D, A, B), x, y)
        assert found == (rest & M32, rest < 0)


COMPARES = {"eq": int.__eq__, "lg": int.__ne__, "gt": int.__gt__, "ge": int.__ge__,
            "lt": int.__lt__, "le": int.__le__}  # fmt: skip


@pytest.mark.parametrize("relation", COMPARES)
def test_compares(card, relation):
    function = COMPARES[relation]
    for x, y in ((0, 0), (1, M32), (0x80000000, 1), (7, 0xFFFF8000)):
        found = run_scalar(card, a.sopc(f"s_cmp_{relation}_u32", A, B), x, y)[1]
        assert found == function(x, y)
        found = run_scalar(card, a.sopc(f"s_cmp_{relation}_i32", A, B), x, y)[1]
        assert found == function(s32(x), s32(y))
        found = run_scalar(card, a.sopk(f"s_cmpk_{relation}_i32", A, -32768), y)[1]
        assert found == function(s32(y), -32768)
        found = run_scalar(card, a.sopk(f"s_cmpk_{relation}_u32", A, 0x8000), y)[1]
        assert found == function(y, 0x8000)


def test_bits_and_constants(card):
    assert run_scalar(card, a.sopc("s_bitcmp1_b32", A, B), 8, 3)[1] == 1
    assert run_scalar(card, a.sopc("s_bitcmp0_b32", A, B), 8, 3)[1] == 0
    assert run_scalar(card, a.sop1("s_bitset1_b32", D, A), 36, 0, 1)[0] == 17
    assert run_scalar(card, a.sop1("s_bitset0_b32", D, A), 4, 0, 17)[0] == 1
    assert run_scalar(card, a.sopk("s_movk_i32", D, -5))[0] == -5 & M32
    assert run_scalar(card, a.sopk("s_addk_i32", D, -5), 0, 0, 3)[0] == -2 & M32
    assert run_scalar(card, a.sopk("s_mulk_i32", D, -5), 0, 0, 3)[0] == -15 & M32
    assert run_scalar(card, SET_SCC + a.sopk("s_cmovk_i32", D, 9), 0, 0, 3)[0] == 9
    assert run_scalar(card, a.sop1("s_mov_b32", D, 240))[0] == 0x3F000000
    assert run_scalar(card, a.sop1("s_mov_b32", D, 124), 0, 0, 7)[0] == 0


MASKS = {
    "and": lambda x, e: x & e, "or": lambda x, e: x | e, "xor": lambda x, e: x ^ e,
    "nand": lambda x, e: ~(x & e), "and_not1": lambda x, e: x & ~e, "or_not1": lambda x, e: x | ~e,
    "and_not0": lambda x, e: ~x & e, "or_not0": lambda x, e: ~x | e, "nor": lambda x, e: ~(x | e),
    "xnor": lambda x, e: ~(x ^ e),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_saved(card, name):
    x, e = 0x0F0F1234, 0x33335555
    code = a.move(EXEC, e) + a.sop1(f"s_{name}_saveexec_b32", D, A)
    code += a.sop1("s_mov_b32", D + 1, EXEC) + a.sop1("s_mov_b32", EXEC, 193)
    value, scc = run_scalar(card, code, x, wide=True)
    new = MASKS[name](x, e) & M32
    assert value == new << 32 | e
    assert scc == (new != 0)


def test_mask_is_written(card):
    code = a.move(EXEC, 0x33335555) + a.sop1("s_and_not1_wrexec_b32", D, A)
    code += a.sop1("s_mov_b32", EXEC, 193)
    assert run_scalar(card, code, 0x0F0F1234)[0] == 0x0F0F1234 & ~0x33335555


def test_the_program_counter(card):
    card.top = 4096
    code = a.sop1("s_getpc_b64", D, 128)
    value, _ = run_scalar(card, code, wide=True)
    assert value > 0x2000_0000_0000
    # What lies at that address is the instruction after this one.
    at = value - card.tlb.base
    assert card.tlb.memory[at : at + 4].tobytes() == a.sop2("s_cselect_b32", 30, 129, 128)


def test_the_mode_register(card):
    code = a.sopk("s_getreg_b32", D, 1 | 4 << 6 | 3 << 11)  # MODE, bits 7:4: denormals
    assert run_scalar(card, code)[0] == 15


def test_branches_on_vcc_and_exec(card):
    for name, vcc, execution, taken in (
        ("s_cbranch_vccz", 0, 1, True), ("s_cbranch_vccz", 1, 1, False),
        ("s_cbranch_vccnz", 4, 1, True), ("s_cbranch_execz", 1, 0, True),
        ("s_cbranch_execnz", 1, 8, True), ("s_cbranch_execnz", 1, 0, False),
    ):  # fmt: skip
        code = a.move(VCC, vcc) + a.move(EXEC, execution)
        code += a.sopp(name, 1) + a.sopk("s_movk_i32", D, 5) + a.sop1("s_mov_b32", EXEC, 193)
        assert (run_scalar(card, code, 0, 0, 7)[0] == 7) == taken, name


def test_literals_in_wide_operations(card):
    code = a.sop2("s_and_b64", D, A, LITERAL, literal=0xFFFF0000)
    assert run_scalar(card, code, M64, wide=True)[0] == 0xFFFF0000
