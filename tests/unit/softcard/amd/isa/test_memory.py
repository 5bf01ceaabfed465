"""Memory instructions: sizes, pages, permissions, local memory, scratch, atomics."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.softcard.amd.isa import assemble as a
from tests.unit.softcard.amd.isa.flat import BASE, PAGE, READ, FlatCard

from exosuit.silicon.amd.code import Rsrc2
from exosuit.silicon.amd.compute import TmpringSize
from exosuit.silicon.amd.isa.operands import EXEC, LITERAL

M32 = (1 << 32) - 1
RNG = np.random.default_rng(11)
BYTES = RNG.integers(0, 256, 3 * PAGE, np.uint8)
LDS = int(Rsrc2(user_sgpr=15, lds_size=2))  # 1 KiB
LANES = a.vop("VOP2", "v_lshlrev_b32", 1, [130, a.V])
"""v1 = 4 * lane"""


@pytest.fixture
def card() -> FlatCard:
    return FlatCard(1 << 20)


def words(address: int) -> list[int]:
    return [address & M32, address >> 32]


def offsets(card, values) -> tuple[bytes, list[int]]:
    """Code that loads one u32 per lane into v3, its place in s[4:5]."""
    table = card.place(np.asarray(values, np.uint32))
    return LANES + a.load(3, 1, 4), words(table)


PATTERNS = {
    "in a row": lambda size: np.arange(32) * size,
    "scattered": lambda size: RNG.permutation(2 * PAGE - 16)[:32],
    "one place": lambda size: np.full(32, 4000),
    "over a page's end": lambda size: np.arange(32) * size + PAGE - 13 * size - 1,
    "backwards": lambda size: np.arange(32)[::-1] * size,
}
SIZES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0FF0A5C3])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", SIZES)
def test_loads(card, size, pattern, mask):
    bytes_ = SIZES[size]
    where = PATTERNS[pattern](bytes_)
    source = card.place(BYTES, align=PAGE)
    count = -(-bytes_ // 4)
    out = card.place(np.full((4, 32), 7, np.uint32))
    code, table = offsets(card, where)
    for k in range(count):
        code += a.vop("VOP1", "v_mov_b32", 8 + k, [135])
    code += a.move(EXEC, mask) + a.load(8, 3, 0, size) + a.sop1("s_mov_b32", EXEC, 193)
    for k in range(count):
        code += a.store(8 + k, 1, 2, offset=128 * k)
    card.run_code(code + a.END, words(source) + words(out) + table)
    found = card.read(out, np.uint32, 128).reshape(4, 32)
    for lane in range(32):
        raw = BYTES[where[lane] : where[lane] + bytes_].tobytes()
        value = int.from_bytes(raw, "little", signed=size[0] == "i")
        for k in range(count):
            expected = value >> 32 * k & M32 if mask >> lane & 1 else 7
            assert found[k, lane] == expected, (lane, k)
    assert not card.tlb.faults


STORES = {"b8": 1, "b16": 2, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0FF0A5C3])
@pytest.mark.parametrize("pattern", ["in a row", "over a page's end", "backwards"])
@pytest.mark.parametrize("size", STORES)
def test_stores(card, size, pattern, mask):
    bytes_ = STORES[size]
    where = PATTERNS[pattern](bytes_)
    count = -(-bytes_ // 4)
    data = RNG.integers(0, 1 << 32, (4, 32), np.uint32)
    source, target = card.place(data), card.place(BYTES, align=PAGE)
    code, table = offsets(card, where)
    for k in range(count):
        code += a.load(8 + k, 1, 2, offset=128 * k)
    code += a.move(EXEC, mask) + a.store(8, 3, 0, size)
    card.run_code(code + a.END, words(target) + words(source) + table)
    expected = BYTES.copy()
    for lane in range(32):
        if mask >> lane & 1:
            raw = b"".join(data[k, lane].tobytes() for k in range(count))[:bytes_]
            expected[where[lane] : where[lane] + bytes_] = np.frombuffer(raw, np.uint8)
    np.testing.assert_array_equal(card.read(target, np.uint8, BYTES.size), expected)


@pytest.mark.parametrize("high", [False, True])
def test_halves_of_registers(card, high):
    source, out = card.place(BYTES), card.place(np.zeros(32, np.uint32))
    word = "d16_hi" if high else "d16"
    code = LANES + a.vop("VOP1", "v_mov_b32", 8, [LITERAL], literal=0x11223344)
    code += a.load(8, 1, 0, f"{word}_b16", offset=2)
    code += a.store(8, 1, 2, "d16_hi_b16" if high else "b16")
    card.run_code(code + a.END, words(source) + words(out))
    loaded = BYTES[: 34 * 4].view(np.uint16)[1:64:2]
    np.testing.assert_array_equal(card.read(out, np.uint16, 64)[::2], loaded)
    code = LANES + a.vop("VOP1", "v_mov_b32", 8, [LITERAL], literal=0x11223344)
    code += a.load(8, 1, 0, f"{word}_i8") + a.store(8, 1, 2) + a.END
    card.run_code(code, words(source) + words(out))
    found = card.read(out, np.uint32, 32)
    value = BYTES[:128:4].view(np.int8).astype(np.int16).view(np.uint16).astype(np.uint32)
    expected = value << 16 | 0x3344 if high else value | 0x11220000
    np.testing.assert_array_equal(found, expected)


def test_addresses_in_vector_registers(card):
    source, out = card.place(BYTES), card.place(np.zeros(32, np.uint32))
    code = LANES + a.vop("VOP3", "v_add_co_u32", 4, [0, a.V + 1], sdst=106)
    code += a.vop("VOP3", "v_add_co_ci_u32", 5, [1, 128, 106], sdst=124)
    code += a.load(8, 4, 124, offset=-8) + a.store(8, 1, 2) + a.END
    card.run_code(code, words(source + 8) + words(out))
    np.testing.assert_array_equal(card.read(out, np.uint32, 32), BYTES[:128].view(np.uint32))


def test_scalar_loads_cross_pages(card):
    source, out = card.place(BYTES, align=PAGE), card.place(np.zeros(32, np.uint32))
    code = a.scalar_load(16, 16, 0, offset=PAGE - 24) + LANES
    for k in range(16):
        code += a.vop("VOP3", "v_writelane_b32", 8, [16 + k, 128 + k])
    card.run_code(code + a.store(8, 1, 2) + a.END, words(source) + words(out))
    expected = BYTES[PAGE - 24 : PAGE + 40].view(np.uint32)
    np.testing.assert_array_equal(card.read(out, np.uint32, 16), expected)


# Faults -----------------------------------------------------------------------------------------


def test_pages_that_are_not_there_read_from_the_dummy_page(card):
    out = card.place(np.full(32, 9, np.uint32))
    far = BASE + card.tlb.pages * PAGE + 64
    code = LANES + a.load(8, 1, 0) + a.store(8, 1, 2) + a.END
    card.run_code(code, words(far) + words(out))
    assert not card.read(out, np.uint32, 32).any()
    assert card.tlb.faults[0] == (far, READ)


def test_pages_that_may_not_be_written_are_not(card):
    target = card.place(BYTES, align=PAGE)
    card.tlb.permissions[(target - BASE) // PAGE] = READ
    code = LANES + a.load(8, 1, 0) + a.store(1, 1, 0) + a.END
    card.run_code(code, words(target))
    np.testing.assert_array_equal(card.read(target, np.uint8, PAGE), BYTES[:PAGE])
    assert {access for _, access in card.tlb.faults} == {2}


def test_the_cache_is_as_stale_as_it_was_left(card):
    """An entry that is still cached is used, whatever has become of the page."""
    source, out = card.place(BYTES, align=PAGE), card.place(np.zeros(32, np.uint32), align=PAGE)
    code = LANES + a.load(8, 1, 0) + a.store(8, 1, 2) + a.END
    card.run_code(code, words(source) + words(out))
    card.tlb.permissions[(source - BASE) // PAGE] = 0
    card.run_code(code, words(source) + words(out))
    assert not card.tlb.faults
    card.tlb.entries[:] = 0
    card.run_code(code, words(source) + words(out))
    assert card.tlb.faults


def test_errors_of_the_walk_reach_the_caller(card):
    def broken(address: int, access: int) -> int:
        raise LookupError(f"{address:#x}")

    code = card.place(LANES + a.load(8, 1, 0) + a.END + bytes(64))
    card.run_code(LANES + a.END)  # the routines and the code's own page are there
    card.tlb.entries[:] = 0
    known = card.tlb.miss(code, 4)
    assert known
    card.tlb.miss = broken  # type: ignore[method-assign]
    from exosuit.softcard.amd.isa.shaders import Dispatch

    dispatch = Dispatch(code, 0xF0 << 12, LDS, 0, (0, 0x3000), (32, 1, 1), (1, 1, 1))
    with pytest.raises(LookupError, match="0x300000000000"):
        card.shaders.run(dispatch)


# Local memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["b32", "b64", "b96", "b128"])
def test_local_memory_is_the_groups(card, size):
    """Each lane stores, then reads what its mirror image stored."""
    count = int(size[1:]) // 32
    data = RNG.integers(0, 1 << 32, (4, 32), np.uint32)
    source, out = card.place(data), card.place(np.zeros((4, 32), np.uint32))
    code = LANES + b"".join(a.load(8 + k, 1, 0, offset=128 * k) for k in range(count))
    code += a.vop("VOP3", "v_mul_lo_u32", 2, [a.V, 128 + 4 * count])
    code += a.vop("VOP2", "v_xor_b32", 3, [159, a.V])
    code += a.vop("VOP3", "v_mul_lo_u32", 3, [a.V + 3, 128 + 4 * count])
    code += a.ds(f"ds_store_{size}", addr=2, data0=8, offset0=16)
    code += a.ds(f"ds_load_{size}", vdst=16, addr=3, offset0=16)
    code += b"".join(a.store(16 + k, 1, 2, offset=128 * k) for k in range(count))
    card.run_code(code + a.END, words(source) + words(out), rsrc2=LDS)
    found = card.read(out, np.uint32, 128).reshape(4, 32)[:count]
    np.testing.assert_array_equal(found, data[:count, ::-1])


def test_two_places_of_local_memory(card):
    out = card.place(np.zeros((2, 32), np.uint32))
    code = LANES + a.vop("VOP2", "v_add_nc_u32", 8, [160, a.V])
    code += a.ds("ds_store_2addr_b32", addr=1, data0=1, data1=8, offset0=1, offset1=40)
    code += a.ds("ds_load_2addr_b32", vdst=10, addr=1, offset0=40, offset1=1)
    code += a.store(10, 1, 0) + a.store(11, 1, 0, offset=128)
    card.run_code(code + a.END, words(out), rsrc2=LDS)
    lane = np.arange(32)
    expected = np.array([lane + 32, 4 * lane])
    np.testing.assert_array_equal(card.read(out, np.uint32, 64).reshape(2, 32), expected)
    code = LANES + a.ds("ds_store_2addr_stride64_b32", addr=1, data0=1, data1=8, offset1=1)
    code += a.ds("ds_load_b32", vdst=10, addr=1, offset1=1) + a.store(10, 1, 0)
    code = a.vop("VOP1", "v_mov_b32", 8, [a.V]) + code + a.END
    card.run_code(code, words(out), rsrc2=LDS)
    np.testing.assert_array_equal(card.read(out, np.uint32, 32), lane)


def test_outside_of_local_memory(card):
    """Loads give 0, stores are lost."""
    out = card.place(np.full(32, 9, np.uint32))
    code = LANES + a.vop("VOP1", "v_mov_b32", 8, [a.V])
    code += a.ds("ds_store_b32", addr=1, data0=8, offset0=0xC0, offset1=3)
    code += a.ds("ds_load_b32", vdst=8, addr=1, offset0=0xC0, offset1=3)
    card.run_code(code + a.store(8, 1, 0) + a.END, words(out), rsrc2=LDS)
    lane = np.arange(32)
    np.testing.assert_array_equal(card.read(out, np.uint32, 32), np.where(lane < 16, lane, 0))


def test_small_pieces_of_local_memory(card):
    source, out = card.place(BYTES), card.place(np.zeros(32, np.uint32))
    code = LANES + a.load(8, 1, 0) + a.ds("ds_store_b8", addr=0, data0=8)
    code += a.ds("ds_store_b16", addr=1, data0=8, offset0=64)
    code += a.ds("ds_load_i8", vdst=9, addr=0) + a.ds("ds_load_u16_d16_hi", vdst=9, addr=1,
                                                      offset0=64)  # fmt: skip
    card.run_code(code + a.store(9, 1, 2) + a.END, words(source) + words(out), rsrc2=LDS)
    loaded = BYTES[:128].view(np.uint32)
    low = (loaded & 255).astype(np.int8).astype(np.int16).view(np.uint16)
    expected = low.astype(np.uint32) | (loaded & 0xFFFF) << 16
    np.testing.assert_array_equal(card.read(out, np.uint32, 32), expected)


def test_lanes_read_each_other(card):
    data = RNG.integers(0, 1 << 32, 32, np.uint32)
    where = RNG.integers(0, 1 << 16, 32, np.uint32)
    source, out = card.place(data), card.place(np.zeros((3, 32), np.uint32))
    code, table = offsets(card, where)
    code += a.load(8, 1, 0) + a.vop("VOP1", "v_mov_b32", 10, [128])
    code += a.vop("VOP1", "v_mov_b32", 11, [128])
    code += a.move(EXEC, 0x7FFFFFFE) + a.ds("ds_bpermute_b32", vdst=10, addr=3, data0=8, offset0=4)
    code += a.ds("ds_permute_b32", vdst=11, addr=1, data0=8, offset0=8)
    code += a.ds("ds_swizzle_b32", vdst=12, addr=8, offset0=0x1F, offset1=0x10)
    code += a.sop1("s_mov_b32", EXEC, 193)
    code += b"".join(a.store(10 + k, 1, 2, offset=128 * k) for k in range(3))
    card.run_code(code + a.END, words(source) + words(out) + table)
    found = card.read(out, np.uint32, 96).reshape(3, 32)
    on = np.zeros(32, bool)
    on[1:31] = True
    lane = np.arange(32)
    from_ = (where + 4 >> 2) % 32
    np.testing.assert_array_equal(found[0], np.where(on & on[from_], data[from_], 0))
    sender = (lane - 2) % 32
    np.testing.assert_array_equal(found[1], np.where(on & on[sender], data[sender], 0))
    np.testing.assert_array_equal(found[2][1:31], np.where(on, data, 0)[lane ^ 4][1:31])


# Scratch -----------------------------------------------------------------------------------------


def test_scratch_belongs_to_a_lane(card):
    """Two waves write the same offsets, and each lane finds its own values again."""
    out = card.place(np.zeros((2, 64), np.uint32))
    ring = card.place(np.zeros(4 * PAGE, np.uint8))
    code = LANES + a.vop("VOP1", "v_mov_b32", 2, [132])
    code += a.scratch("store_b32", data=1, offset=8) + a.scratch("store_b32", data=0, addr=2)
    code += a.scratch("load_b32", vdst=8, offset=4, addr=2)
    code += a.move(20, 4) + a.scratch("load_b64", vdst=10, saddr=20)
    code += a.store(8, 1, 0) + a.store(10, 1, 0, offset=256) + a.END
    card.run_code(
        code, words(out), threads=(64, 1, 1), scratch_base=ring, rsrc2=LDS | 1,
        tmpring=int(TmpringSize(waves=4, wavesize=8)),
    )  # fmt: skip
    lane = np.arange(64)
    found = card.read(out, np.uint32, 128).reshape(2, 64)
    np.testing.assert_array_equal(found, [4 * lane, lane])
    memory = card.read(ring, np.uint32, 1024)
    np.testing.assert_array_equal(memory[64:96], 4 * lane[:32])
    np.testing.assert_array_equal(memory[512 + 32 : 512 + 64], lane[32:])


# Atomics -----------------------------------------------------------------------------------------

ATOMICS = {
    "add_u32": lambda m, v: m + v, "sub_u32": lambda m, v: m - v, "min_u32": min, "max_u32": max,
    "and_b32": lambda m, v: m & v, "or_b32": lambda m, v: m | v, "xor_b32": lambda m, v: m ^ v,
    "swap_b32": lambda m, v: v, "inc_u32": lambda m, v: 0 if m >= v else m + 1,
    "dec_u32": lambda m, v: v if m == 0 or m > v else m - 1,
    "csub_u32": lambda m, v: max(m - v, 0),
    "add_u64": lambda m, v: m + v, "max_u64": max, "swap_b64": lambda m, v: v,
}  # fmt: skip


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x80000101])
@pytest.mark.parametrize("name", ATOMICS)
def test_atomics_on_one_place(card, name, mask):
    wide = name.endswith("64")
    dtype = np.uint64 if wide else np.uint32
    values = RNG.integers(0, 1 << 20, 32).astype(dtype)
    source, memory = card.place(values), card.place(np.array([1000], dtype))
    out = card.place(np.zeros(32, dtype))
    size = "b64" if wide else "b32"
    code = a.vop("VOP2", "v_lshlrev_b32", 1, [131 if wide else 130, a.V])
    code += a.load(8, 1, 0, size) + a.vop("VOP1", "v_mov_b32", 2, [128])
    code += a.move(EXEC, mask) + a.atomic(name, 10, 2, 2, 8) + a.store(10, 1, 4, size) + a.END
    card.run_code(code, words(source) + words(memory) + words(out))
    current, bits = 1000, 64 if wide else 32
    found = card.read(out, dtype, 32)
    for lane in range(32):
        if mask >> lane & 1:
            assert found[lane] == current
            current = ATOMICS[name](current, int(values[lane])) & (1 << bits) - 1
    assert card.read(memory, dtype, 1)[0] == current


@pytest.mark.parametrize(
    ("name", "function"),
    [("add_f32", lambda m, v: m + v), ("min_f32", min), ("max_f32", max)],
)
def test_float_atomics(card, name, function):
    values = RNG.normal(size=32).astype(np.float32)
    source, memory = card.place(values), card.place(np.array([0.25], np.float32))
    code = LANES + a.load(8, 1, 0) + a.vop("VOP1", "v_mov_b32", 2, [128])
    card.run_code(code + a.atomic(name, 0, 2, 2, 8, glc=False) + a.END,
                  words(source) + words(memory))  # fmt: skip
    current = np.float32(0.25)
    for value in values:
        current = function(current, value)
    assert card.read(memory, np.float32, 1)[0] == current


def test_compare_and_swap(card):
    memory = card.place(np.array([7], np.uint32))
    out = card.place(np.zeros(32, np.uint32))
    code = LANES + a.vop("VOP1", "v_mov_b32", 2, [128])  # each lane puts lane + 8 where lane + 7 is
    code += a.vop("VOP2", "v_add_nc_u32", 8, [136, a.V])
    code += a.vop("VOP2", "v_add_nc_u32", 9, [135, a.V])
    code += a.atomic("cmpswap_b32", 10, 2, 0, 8) + a.store(10, 1, 2) + a.END
    card.run_code(code, words(memory) + words(out))
    np.testing.assert_array_equal(card.read(out, np.uint32, 32), np.arange(7, 39))
    assert card.read(memory, np.uint32, 1)[0] == 39


def test_local_atomics(card):
    out = card.place(np.zeros((2, 32), np.uint32))
    code = LANES + a.vop("VOP1", "v_mov_b32", 2, [128]) + a.vop("VOP1", "v_mov_b32", 3, [133])
    code += a.ds("ds_store_b32", addr=2, data0=2) + a.ds("ds_add_u32", addr=2, data0=3)
    code += a.ds("ds_add_rtn_u32", vdst=8, addr=2, data0=3)
    code += a.vop("VOP1", "v_mov_b32", 4, [LITERAL], literal=320)
    code += a.ds("ds_cmpstore_rtn_b32", vdst=9, addr=2, data0=3, data1=4)
    code += a.store(8, 1, 0) + a.store(9, 1, 0, offset=128) + a.END
    card.run_code(code, words(out), rsrc2=LDS)
    found = card.read(out, np.uint32, 64).reshape(2, 32)
    np.testing.assert_array_equal(found[0], 160 + 5 * np.arange(32))
    np.testing.assert_array_equal(found[1], [320, *[5] * 31])
