"""Every vector operation against NumPy and exact arithmetic, in each encoding that has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import FlatCard
from tests.unit.softcard.amd.isa.lanes import (
    RESULT,
    SOURCES,
    assert_same,
    operands,
    random_operands,
    run_lanes,
)
from tests.unit.softcard.amd.isa.references import DTYPES, REFERENCES

from exosuit.softcard.amd.isa.vector import OPERATIONS

CASES = [(name, table) for name in REFERENCES for table in a.tables_with(name)]
# What is tested elsewhere: in pairs of a row with another, with a mask, or with a tolerance.
ELSEWHERE = {
    "v_cndmask_b32", "v_cndmask_b16", "v_mbcnt_lo_u32_b32", "v_mbcnt_hi_u32_b32",
    "v_fmac_f16", "v_fmac_f32", "v_fmac_dx9_zero_f32", "v_fma_dx9_zero_f32", "v_fmaak_f32",
    "v_fmamk_f32", "v_fmaak_f16", "v_fmamk_f16", "v_sqrt_f16", "v_sqrt_f32", "v_sqrt_f64",
    "v_rcp_f16", "v_rcp_f64", "v_rsq_f16", "v_rsq_f64", "v_div_fixup_f16", "v_div_fixup_f32",
    "v_div_fixup_f64", "v_cvt_nearest_i32_f32", "v_cvt_norm_i16_f16", "v_cvt_norm_u16_f16",
    "v_cvt_pk_norm_i16_f32", "v_cvt_pk_norm_u16_f32", "v_cvt_pk_norm_i16_f16",
    "v_cvt_pk_norm_u16_f16",
}  # fmt: skip


@pytest.fixture(scope="module")
def card() -> FlatCard:
    return FlatCard()


def expected(name, values):
    kind, _, function = REFERENCES[name]
    with np.errstate(all="ignore"):
        return np.asarray(function(*values)).astype(DTYPES[kind])


def instruction(name, table, count):
    codes = [a.V + register for register in SOURCES[:count]]
    return a.vop(table, name, RESULT, codes)


@pytest.mark.parametrize(("name", "table"), CASES, ids=[f"{n}-{t}" for n, t in CASES])
def test_edges(card, name, table):
    result, kinds, _ = REFERENCES[name]
    values = operands(kinds.split())
    found = run_lanes(card, instruction(name, table, len(values)), values, result)
    assert_same(found, expected(name, values), values)


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(CASES), seed=st.integers(0, 2**32 - 1))
def test_random_bits(case, seed):
    name, table = case
    result, kinds, _ = REFERENCES[name]
    values = random_operands(kinds.split(), seed)
    found = run_lanes(CARD, instruction(name, table, len(values)), values, result)
    assert_same(found, expected(name, values), values)


CARD = FlatCard()


def test_every_operation_has_a_reference():
    inside = {name for name in OPERATIONS if a.tables_with(name)}
    assert inside - set(REFERENCES) <= ELSEWHERE
    assert set(REFERENCES) - set(OPERATIONS) == {"v_perm_b32"}
