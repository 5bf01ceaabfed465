"""Dispatches as wholes: groups, barriers, loops, faults, caches, and what they cost."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import BASE, EXECUTE, PAGE, READ, WRITE, FlatCard

from exosuit.errors import UnsupportedCard
from exosuit.silicon.amd.code import Rsrc1, Rsrc2
from exosuit.silicon.amd.isa.operands import LITERAL
from exosuit.softcard.amd.isa.shaders import ShaderFault, Shaders
from exosuit.softcard.translation.host import HostCode

M32 = (1 << 32) - 1
LANES = a.vop("VOP2", "v_lshlrev_b32", 1, [130, a.V])


@pytest.fixture
def card() -> FlatCard:
    return FlatCard(4 << 20, budget=1 << 20)


def words(address: int) -> list[int]:
    return [address & M32, address >> 32]


# Groups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_every_group_and_every_work_item_once(threads):
    """Three dimensions of both; each work-item counts one at its own place."""
    card = FlatCard(4 << 20, threads=threads)
    groups, size = (5, 3, 2), (4, 3, 5)
    out = card.place(np.zeros(30 * 64, np.uint32))
    rsrc2 = int(Rsrc2(user_sgpr=2, tgid_x_en=True, tgid_y_en=True, tgid_z_en=True,
                      tidig_comp_cnt=2))  # fmt: skip
    code = a.sop2("s_mul_i32", 8, 4, 128 + 3) + a.sop2("s_add_u32", 8, 8, 3)
    code += a.sop2("s_mul_i32", 8, 8, 128 + 5) + a.sop2("s_add_u32", 8, 8, 2)
    code += a.sop2("s_lshl_b32", 8, 8, 128 + 8)  # 256 bytes per group
    fields = [(0, 1), (10, 4), (20, 12)]  # x + 4 y + 12 z, from v0
    code += a.vop("VOP1", "v_mov_b32", 3, [128])
    for shift, factor in fields:
        code += a.vop("VOP3", "v_bfe_u32", 2, [a.V, 128 + shift, 128 + 10])
        code += a.vop("VOP3", "v_mad_u32_u24", 3, [a.V + 2, 128 + factor, a.V + 3])
    code += a.vop("VOP3", "v_lshl_add_u32", 3, [a.V + 3, 130, 8])
    code += a.vop("VOP1", "v_mov_b32", 4, [129]) + a.atomic("add_u32", 0, 3, 0, 4, glc=False)
    cost = card.run_code(code + a.END, words(out), groups=groups, threads=size, rsrc2=rsrc2)
    found = card.read(out, np.uint32, 30 * 64).reshape(30, 64)
    assert (found[:, :60] == 1).all()
    assert not found[:, 60:].any()
    assert cost.waves == 60
    per_lane = 1 + 6 + 1 + 1 + 1
    assert cost.lane_instructions == 30 * 60 * per_lane + 60 * 6
    assert cost.memory_bytes == 30 * 60 * 4


def test_groups_may_begin_elsewhere(card):
    out = card.place(np.zeros(64, np.uint32))
    rsrc2 = int(Rsrc2(user_sgpr=2, tgid_x_en=True))
    code = a.sop2("s_lshl_b32", 8, 2, 130) + a.vop("VOP1", "v_mov_b32", 2, [8])
    code += a.vop("VOP1", "v_mov_b32", 3, [2]) + a.store(3, 2, 0) + a.END
    card.run_code(code, words(out), groups=(3, 1, 1), start=(7, 0, 0), rsrc2=rsrc2)
    found = card.read(out, np.uint32, 64)
    assert found[7:10].tolist() == [7, 8, 9]
    assert found.sum() == 24


def test_barriers_hold_all_waves(card):
    """Eight waves pass a number round through local memory, several times."""
    out = card.place(np.zeros(256, np.uint32))
    code = LANES + a.ds("ds_store_b32", addr=1, data0=0) + a.move(20, 6)
    code += a.vop("VOP2", "v_add_nc_u32", 2, [LITERAL, a.V], literal=32)
    code += a.vop("VOP2", "v_and_b32", 2, [LITERAL, a.V + 2], literal=255)
    code += a.vop("VOP2", "v_lshlrev_b32", 2, [130, a.V + 2])
    loop = a.BARRIER + a.ds("ds_load_b32", vdst=3, addr=2) + a.BARRIER
    loop += a.ds("ds_store_b32", addr=1, data0=3) + a.sopk("s_addk_i32", 20, -1)
    loop += a.sopc("s_cmp_lg_u32", 20, 128)
    code += loop + a.sopp("s_cbranch_scc1", -(len(loop) + 4) // 4) + a.BARRIER
    code += a.ds("ds_load_b32", vdst=3, addr=1) + a.store(3, 1, 0) + a.END
    rsrc2 = int(Rsrc2(user_sgpr=2, lds_size=2))
    card.run_code(code, words(out), threads=(256, 1, 1), rsrc2=rsrc2)
    expected = (np.arange(256) + 6 * 32) % 256
    np.testing.assert_array_equal(card.read(out, np.uint32, 256), expected)


def test_waves_that_wait_for_each_other_in_memory(card):
    """The second wave spins until the first one writes: nobody is starved."""
    card = FlatCard(4 << 20)
    flag = card.place(np.zeros(64, np.uint32))
    code = LANES + a.vop("VOP1", "v_readfirstlane_b32", 20, [a.V])
    code += a.sopc("s_cmp_eq_u32", 20, 128)
    spin = a.vop("VOP1", "v_mov_b32", 2, [128]) + a.load(3, 2, 0)
    spin += a.vop("VOP1", "v_readfirstlane_b32", 21, [a.V + 3]) + a.sopc("s_cmp_eq_u32", 21, 128)
    spin += a.sopp("s_cbranch_scc1", -(len(spin) + 4) // 4)
    # The first wave waits for the second one, which writes 1 and is written later.
    write = a.vop("VOP1", "v_mov_b32", 2, [128]) + a.vop("VOP1", "v_mov_b32", 3, [129])
    write += a.store(3, 2, 0)
    code += a.sopp("s_cbranch_scc0", (len(spin) + 4) // 4) + spin + a.END + write + a.END
    card.run_code(code, words(flag), threads=(64, 1, 1))
    assert card.read(flag, np.uint32, 1)[0] == 1


def test_divergent_loops(card):
    """Each lane adds up to its own number: lanes leave the loop one after the other."""
    out = card.place(np.zeros(32, np.uint32))
    code = LANES + a.vop("VOP1", "v_mov_b32", 2, [128]) + a.vop("VOP1", "v_mov_b32", 3, [128])
    code += a.sop1("s_mov_b32", 20, 126)
    loop = a.vop("VOPC", "v_cmpx_gt_u32", 0, [a.V, a.V + 3])
    body = a.vop("VOP2", "v_add_nc_u32", 3, [129, a.V + 3])
    body += a.vop("VOP2", "v_add_nc_u32", 2, [a.V + 3, a.V + 2])
    skip = a.sopp("s_cbranch_execz", (len(body) + 4) // 4)
    whole = loop + skip + body
    code += whole + a.sopp("s_branch", -(len(whole) + 4) // 4)
    code += a.sop1("s_mov_b32", 126, 20) + a.store(2, 1, 0) + a.END
    card.run_code(code, words(out))
    lane = np.arange(32)
    np.testing.assert_array_equal(card.read(out, np.uint32, 32), lane * (lane + 1) // 2)


# Faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dword", [0xFFFFFFFF, 0xEC000000, 0x80000000 | 0x3E << 23, 0])
def test_what_no_card_can_decode(card, dword):
    code = LANES + a.sopp("s_nop") + dword.to_bytes(4, "little") + a.END
    with pytest.raises(ShaderFault) as caught:
        card.run_code(code)
    assert caught.value.kind == "illegal instruction"
    assert caught.value.words[0] == dword
    assert card.tlb.memory[caught.value.address - BASE :][:4].tobytes() == code[8:12]
    assert f"{dword:08x}" in str(caught.value)


def test_what_is_not_translated_is_as_illegal(card):
    code = a.vop("VOP3", "v_cubeid_f32", 4, [a.V, a.V, a.V])
    with pytest.raises(ShaderFault, match="v_cubeid_f32"):
        card.run_code(code + a.END)


def test_it_counts_only_where_it_is_reached(card):
    skipped = a.vop("VOP3", "v_cubeid_f32", 4, [a.V, a.V, a.V])
    card.run_code(a.sopp("s_branch", 2) + skipped + a.END)


def test_traps(card):
    with pytest.raises(ShaderFault) as caught:
        card.run_code(LANES + a.sopp("s_trap", 2) + a.END)
    assert caught.value.kind == "trap"


@pytest.mark.parametrize("threads", [1, 2])
def test_what_never_ends_is_stopped(threads):
    card = FlatCard(4 << 20, threads=threads, budget=1 << 22)
    with pytest.raises(ShaderFault) as caught:
        card.run_code(LANES + a.sopp("s_branch", -1) + a.END, groups=(4, 1, 1))
    assert caught.value.kind == "hang"
    # The card goes on after it.
    assert card.run_code(LANES + a.END).waves == 1


def test_which_wave_it_was(card):
    code = a.vop("VOP1", "v_readfirstlane_b32", 20, [a.V]) + a.sopc("s_cmp_eq_u32", 20, 128 + 64)
    code += a.sopp("s_cbranch_scc0", 1) + a.sopp("s_trap", 2) + a.END
    with pytest.raises(ShaderFault) as caught:
        card.run_code(code, threads=(128, 1, 1))
    assert (caught.value.group, caught.value.wave) == (0, 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"wave32": False}, "64 lanes"),
        ({"threads": (1025, 1, 1)}, "1025 work-items"),
        ({"threads": (0, 1, 1)}, "0 work-items"),
        ({"rsrc2": int(Rsrc2(lds_size=200))}, "local memory"),
        ({"rsrc2": int(Rsrc2(tg_size_en=True))}, "TG_SIZE_EN"),
    ],
)
def test_dispatches_that_no_card_runs(card, options, reason):
    with pytest.raises(ShaderFault, match=reason):
        card.run_code(a.END, **options)


def test_nothing_to_do(card):
    assert card.run_code(a.END, groups=(3, 0, 1)).waves == 0


def test_other_generations(card):
    with pytest.raises(UnsupportedCard, match="gfx1201"):
        Shaders("gfx1201", card.tlb, None, 1)


# Code -------------------------------------------------------------------------------------------


def numbered(value: int) -> bytes:
    return (
        LANES + a.vop("VOP1", "v_mov_b32", 2, [LITERAL], literal=value) + a.store(2, 1, 0) + a.END
    )


def test_code_that_changes_in_memory(card):
    from exosuit.softcard.amd.isa.shaders import Dispatch

    out = card.place(np.zeros(32, np.uint32))
    entry = card.place(numbered(1) + bytes(64))
    dispatch = Dispatch(
        entry, int(Rsrc1(float_mode=0xF0)), int(Rsrc2(user_sgpr=2)), 0, tuple(words(out)),
        (32, 1, 1), (1, 1, 1),
    )  # fmt: skip
    for value in (1, 2, 1):
        code = numbered(value)
        card.tlb.memory[entry - BASE : entry - BASE + len(code)] = np.frombuffer(code, np.uint8)
        card.shaders.run(dispatch)
        assert (card.read(out, np.uint32, 32) == value).all()


def test_code_needs_a_page_that_may_be_executed(card):
    card.top = 8 * PAGE
    card.tlb.permissions[8] = READ | WRITE
    with pytest.raises(ShaderFault, match="illegal instruction"):
        card.run_code(numbered(1), words(BASE))  # the dummy page holds zeros, which lead nowhere
    assert card.tlb.faults[0][1] == EXECUTE


def test_host_code_is_kept_on_disk(tmp_path, monkeypatch):
    made: list[str] = []
    from exosuit.softcard.translation import host

    original = host.compile_ir
    monkeypatch.setattr(host, "compile_ir", lambda ir: made.append(ir) or original(ir))
    for _ in range(2):
        card = FlatCard(1 << 20)
        card.shaders = Shaders("gfx1100", card.tlb, tmp_path, 1)
        out = card.place(np.zeros(32, np.uint32))
        card.run_code(numbered(5), words(out))
        assert (card.read(out, np.uint32, 32) == 5).all()
    assert len(made) == 3  # the routines, the groups, the program: once each
    for path in tmp_path.iterdir():  # what is damaged is made again
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    HostCode(tmp_path)
    card = FlatCard(1 << 20)
    card.shaders = Shaders("gfx1100", card.tlb, tmp_path, 1)
    card.run_code(numbered(6), words(card.place(np.zeros(32, np.uint32))))
    assert len(made) == 6


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    card = FlatCard(1 << 20)
    card.shaders = Shaders("gfx1100", card.tlb, tmp_path / "file" / "cache", 1)
    assert card.run_code(a.END).waves == 1


def test_long_straight_code(card):
    """A block of a thousand instructions is cut and still one program."""
    out = card.place(np.zeros(32, np.uint32))
    code = LANES + a.vop("VOP1", "v_mov_b32", 2, [128])
    code += a.vop("VOP2", "v_add_nc_u32", 2, [129, a.V + 2]) * 1000
    card.run_code(code + a.store(2, 1, 0) + a.END, words(out))
    assert (card.read(out, np.uint32, 32) == 1000).all()


def test_other_threads_go_on_meanwhile():
    """The interpreter's lock is free while a wave spins."""
    card = FlatCard(4 << 20, budget=1 << 27)
    ticks = threading.Event()
    card.run_code(a.END)

    def spin() -> None:
        with pytest.raises(ShaderFault):
            card.run_code(LANES + a.sopp("s_branch", -1) + a.END)
        ticks.set()

    thread = threading.Thread(target=spin)
    thread.start()
    count = 0
    while not ticks.wait(0.001):
        count += 1
    thread.join()
    assert count > 3
