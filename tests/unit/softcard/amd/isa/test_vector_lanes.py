"""Vector instructions across lanes: DPP, permutations, single lanes, registers by number."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import FlatCard
from tests.unit.softcard.amd.isa.lanes import (
    COUNT,
    RESULT,
    SOURCES,
    random_operands,
    run_lanes,
)

from exosuit.silicon.amd.isa.encodings import Dpp8, Dpp16
from exosuit.silicon.amd.isa.operands import DPP8, DPP16, EXEC
from exosuit.softcard.amd.isa.shaders import ShaderFault

S0, S1, S2 = (a.V + register for register in SOURCES)


@pytest.fixture(scope="module")
def card() -> FlatCard:
    return FlatCard()


# Lanes -----------------------------------------------------------------------------------------

LANE = np.arange(COUNT, dtype=np.uint32) % 32


def dpp_source(control: int) -> list[int | None]:
    """For each lane of a wave the lane it reads, None outside of the row."""
    found: list[int | None] = []
    for lane in range(32):
        row, k = lane & 16, lane & 15
        n = control & 15
        kind = 0 if control < 0x100 else (control >> 4 & 7) or -1
        moved = {
            0: (k & ~3) | (control >> 2 * (k & 3) & 3), -1: k + n, 1: k - n, 2: (k - n) % 16,
            4: 15 - k if control == 0x140 else k ^ 7, 5: n, 6: k ^ n,
        }[kind]  # fmt: skip
        found.append(row | moved if 0 <= moved < 16 else None)
    return found


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(
    "control", [0x1B, 0x00, 0x103, 0x10F, 0x111, 0x118, 0x125, 0x140, 0x141, 0x152, 0x161, 0x16F]
)
def test_dpp(card, control, bound):
    (x,) = random_operands(["u32"], 8)
    old = np.arange(COUNT, dtype=np.uint32)
    dpp = Dpp16(vsrc0=SOURCES[0], control=control, bound_control=bound, bank_mask=15, row_mask=15)
    code = a.vop("VOP1", "v_mov_b32", RESULT, [DPP16], dpp=dpp)
    found = run_lanes(card, code, [x], "u32", old=old)
    for k in range(COUNT):
        source = dpp_source(control)[k % 32]
        missing = 0 if bound else old[k]
        assert found[k] == (missing if source is None else x[k - k % 32 + source]), (k, source)


@pytest.mark.parametrize("control", [0x100, 0x130, 0x142, 0x170])
def test_dpp_that_these_cards_lack(card, control):
    dpp = Dpp16(vsrc0=SOURCES[0], control=control, bank_mask=15, row_mask=15)
    with pytest.raises(ShaderFault, match="illegal instruction"):
        card.run_code(a.vop("VOP1", "v_mov_b32", RESULT, [DPP16], dpp=dpp) + a.END)


@pytest.mark.parametrize("fetch_inactive", [False, True])
@pytest.mark.parametrize("bound", [False, True])
def test_dpp_from_lanes_that_are_off(card, bound, fetch_inactive):
    (x,) = random_operands(["u32"], 8)
    old = np.arange(COUNT, dtype=np.uint32)
    dpp = Dpp16(vsrc0=SOURCES[0], control=0x161, bound_control=bound, bank_mask=15, row_mask=15,
                fetch_inactive=fetch_inactive)  # fmt: skip
    code = a.move(EXEC, 0x0000FF3B) + a.vop("VOP1", "v_mov_b32", RESULT, [DPP16], dpp=dpp)
    code += a.sop1("s_mov_b32", EXEC, 193)
    found = run_lanes(card, code, [x], "u32", old=old)
    on = (0x0000FF3B >> LANE & 1).astype(bool)
    source_on = on[np.arange(COUNT) ^ 1] | fetch_inactive
    received = np.where(source_on, x[np.arange(COUNT) ^ 1], 0 if bound else old)
    np.testing.assert_array_equal(found, np.where(on, received, old))


def test_dpp_masks_and_eights(card):
    (x,) = random_operands(["u32"], 8)
    old = np.arange(COUNT, dtype=np.uint32)
    dpp = Dpp16(vsrc0=SOURCES[0], control=0xE4, bank_mask=0b0101, row_mask=0b10)
    code = a.vop("VOP1", "v_mov_b32", RESULT, [DPP16], dpp=dpp)
    found = run_lanes(card, code, [x], "u32", old=old)
    written = (LANE >= 16) & (LANE // 4 % 2 == 0)
    np.testing.assert_array_equal(found, np.where(written, x, old))
    eight = Dpp8(vsrc0=SOURCES[0], lanes=0o01234567)
    code = a.vop("VOP1", "v_mov_b32", RESULT, [DPP8], dpp=eight)
    found = run_lanes(card, code, [x], "u32", old=old)
    np.testing.assert_array_equal(found, x.reshape(-1, 8)[:, ::-1].reshape(-1))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", ["v_permlane16_b32", "v_permlanex16_b32"])
def test_permutations_of_rows(card, name, constant):
    (x,) = random_operands(["u32"], 8)
    low, high = 0x13570246, 0xFEDCBA98
    code = a.move(20, low) + a.move(21, high)
    if not constant:  # what was moved in this block is a constant to the translator
        code += a.BARRIER
    code += a.vop("VOP3", name, RESULT, [S0, 20, 21])
    found = run_lanes(card, code, [x], "u32")
    for k in range(COUNT):
        chosen = (high << 32 | low) >> 4 * (k & 15) & 15
        row = k & ~15 ^ (16 if "x16" in name else 0)
        assert found[k] == x[row | chosen]


def test_single_lanes(card):
    (x,) = random_operands(["u32"], 8)
    code = a.vop("VOP3", "v_readlane_b32", 20, [S0, 128 + 37])
    code += a.move(EXEC, 0xFFFF0000) + a.vop("VOP1", "v_readfirstlane_b32", 21, [S0])
    code += a.sop1("s_mov_b32", EXEC, 193)
    code += a.vop("VOP1", "v_mov_b32", RESULT, [20]) + a.vop("VOP1", "v_mov_b32", RESULT + 1, [21])
    code += a.vop("VOP3", "v_writelane_b32", RESULT + 1, [128 + 9, 128 + 3])
    found = run_lanes(card, code, [x], "u64").reshape(-1, 32)
    waves = x.reshape(-1, 32)
    np.testing.assert_array_equal(found & 0xFFFFFFFF, np.repeat(waves[:, 5:6], 32, 1))
    high = np.repeat(waves[:, 16:17], 32, 1)
    high[:, 3] = 9
    np.testing.assert_array_equal(found >> 32, high)


def test_lanes_below(card):
    code = a.move(20, 0xF0F0A5A5) + a.vop("VOP3", "v_mbcnt_lo_u32_b32", RESULT, [20, 128 + 5])
    code += a.vop("VOP3", "v_mbcnt_hi_u32_b32", RESULT, [20, a.V + RESULT])
    (x,) = random_operands(["u32"], 8)
    found = run_lanes(card, code, [x], "u32")
    expected = [5 + (0xF0F0A5A5 & (1 << lane) - 1).bit_count() for lane in LANE.tolist()]
    np.testing.assert_array_equal(found, expected)


def test_registers_by_number(card):
    x, y = random_operands(["u32", "u32"], 8)
    code = a.move(125, 2) + a.vop("VOP1", "v_movrels_b32", RESULT, [S0])
    np.testing.assert_array_equal(run_lanes(card, code, [x, y], "u32"), y)
    code = a.move(125, 4) + a.vop("VOP1", "v_movreld_b32", RESULT - 4, [S1])
    np.testing.assert_array_equal(run_lanes(card, code, [x, y], "u32"), y)
    code = a.vop("VOP1", "v_mov_b32", RESULT, [S0]) + a.vop("VOP1", "v_swap_b32", RESULT, [S1])
    np.testing.assert_array_equal(run_lanes(card, code, [x, y], "u32"), y)
