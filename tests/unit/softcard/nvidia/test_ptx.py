"""The PTX model by itself: hand-written text, against NumPy, and everything that can go wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from exosuit.softcard.nvidia.ptx.faults import PtxFault
from exosuit.softcard.nvidia.ptx.grid import Model, Window

START = 0x7000_0000_0000
HEAD = ".version 8.8\n.target sm_80\n.address_size 64\n"


class Bench:
    """64 KiB of a card's memory, and kernels of one parameter that points to it."""

    def __init__(self, budget: int = 1 << 20) -> None:
        self.memory = np.zeros(1 << 16, np.uint8)
        window = Window(START, self.memory.nbytes, self.memory.ctypes.data)
        self.model = Model([window], threads=2, budget=budget)

    def __call__(self, body: str, lanes=32, groups=1, shared=0, outside="", local=""):
        registers = (
            ".reg .pred %p<64>;\n.reg .b16 %rs<64>;\n.reg .b32 %r<64>;\n.reg .b64 %rd<64>;\n"
        )
        text = (
            f"{HEAD}{outside}\n.visible .entry test(.param .u64 .ptr .global .align 16 a)\n"
            f"{{\n{local}{registers}ld.param.b64 %rd0, [a];\n{body}\nret;\n}}\n"
        )
        lanes = lanes if isinstance(lanes, tuple) else (lanes, 1, 1)
        groups = groups if isinstance(groups, tuple) else (groups, 1, 1)
        function = self.model.load(text)["test"]
        return self.model.run(function, groups, lanes, struct.pack("<Q", START), shared)

    def words(self, count=32, dtype=np.uint32):
        return self.memory.view(dtype)[:count].copy()


@pytest.fixture
def bench():
    return Bench()


# The address of this lane's word in %rd1, its number in %r0.
LANE = """
mov.u32 %r0, %tid.x;
mul.wide.u32 %rd1, %r0, 4;
add.s64 %rd1, %rd0, %rd1;
"""
STORE = "st.global.b32 [%rd1], %r1;"


def evaluate(bench, instructions, *inputs, width=32, result="%r1"):
    """`result` of straight code whose inputs are in %rd10, %rd11 and so on, one value per lane."""
    bench.memory[:] = 0
    text = "mov.u32 %r0, %tid.x;\nmul.wide.u32 %rd2, %r0, 8;\nadd.s64 %rd2, %rd0, %rd2;\n"
    for k, values in enumerate(inputs):
        place = 1024 * (k + 1)
        bench.memory[place : place + 256].view(np.uint64)[:] = np.asarray(values).astype(np.uint64)
        text += f"ld.global.b64 %rd{10 + k}, [%rd2+{place}];\n"
        text += f"cvt.u32.u64 %r{10 + k}, %rd{10 + k};\n"
    bench(f"{text}{instructions}\nst.global.b{width} [%rd2], {result};")
    return bench.words(32, np.uint64) & np.uint64((1 << width) - 1)


def lanes_of(*values):
    return np.resize(np.array(values, np.int64), 32)


# Where lanes go ---------------------------------------------------------------------------


def test_lanes_leave_a_loop_one_after_the_other(bench):
    bench(
        LANE + "mov.b32 %r1, 0;\nmov.b32 %r2, 0;\n$again:\nadd.s32 %r1, %r1, %r2;\n"
        "add.s32 %r2, %r2, 1;\nsetp.le.s32 %p1, %r2, %r0;\n@%p1 bra $again;\n" + STORE
    )
    lanes = np.arange(32)
    np.testing.assert_array_equal(bench.words(), lanes * (lanes + 1) // 2)


def test_lanes_meet_again_where_the_text_puts_the_rest_of_an_if_last(bench):
    """The body of the `if` lies behind the block in which all lanes must be together."""
    bench(
        LANE + "mov.b32 %r1, 7;\nsetp.lt.u32 %p1, %r0, 5;\n@%p1 bra $body;\n$join:\n"
        "shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1;\n" + STORE + "\nret;\n$body:\n"
        "add.s32 %r1, %r0, 100;\nbra.uni $join;\n"
    )
    before = np.where(np.arange(32) < 5, np.arange(32) + 100, 7)
    np.testing.assert_array_equal(bench.words(), before[np.arange(32) ^ 1])


def test_lanes_that_return_early_write_nothing_more(bench):
    bench(LANE + "mov.b32 %r1, 9;\nsetp.gt.u32 %p1, %r0, 3;\n@%p1 ret;\n" + STORE)
    np.testing.assert_array_equal(bench.words(), [9] * 4 + [0] * 28)


def test_guards_keep_what_was_there(bench):
    bench(
        LANE + "mov.b32 %r1, 1;\nsetp.eq.b32 %p1, %r0, 6;\n@!%p1 mov.b32 %r1, 2;\n"
        "@%p1 st.global.b32 [%rd1+128], %r1;\n" + STORE
    )
    np.testing.assert_array_equal(bench.words(), np.where(np.arange(32) == 6, 1, 2))
    np.testing.assert_array_equal(bench.words(64)[32:], np.where(np.arange(32) == 6, 1, 0))


def test_warps_exchange_through_shared_memory(bench):
    """Each lane reads what the mirrored lane of another warp wrote before the barrier."""
    bench(
        LANE + "mul.wide.u32 %rd2, %r0, 4;\nmov.b64 %rd3, tile;\nadd.s64 %rd4, %rd3, %rd2;\n"
        "st.shared.b32 [%rd4], %r0;\nbar.sync 0;\nsub.s32 %r2, 127, %r0;\n"
        "mul.wide.u32 %rd5, %r2, 4;\nadd.s64 %rd6, %rd3, %rd5;\nld.shared.b32 %r1, [%rd6];\n"
        + STORE,
        lanes=128,
        local=".shared .align 16 .b8 tile[512];\n",
    )  # fmt: skip
    np.testing.assert_array_equal(bench.words(128), np.arange(128)[::-1])


def test_shared_memory_is_not_zero_before_it_is_written(bench):
    bench(LANE + "ld.shared.b32 %r1, [tile];\n" + STORE, local=".shared .align 4 .b8 tile[4];\n")
    np.testing.assert_array_equal(bench.words(), 0xFFFF_FFFF)


def test_local_memory_is_each_lane_s_own(bench):
    bench(
        LANE + "add.s32 %r2, %r0, 50;\nst.local.b32 [depot+4], %r2;\nld.local.b32 %r1, [depot+4];\n"
        + STORE, lanes=64, local=".local .align 8 .b8 depot[8];\n",
    )  # fmt: skip
    np.testing.assert_array_equal(bench.words(64), np.arange(64) + 50)


def test_groups_and_lanes_in_three_dimensions(bench):
    """Every lane of every group counts itself in the word of its coordinates."""
    bench(
        "mov.u32 %r0, %tid.x;\nmov.u32 %r1, %tid.y;\nmov.u32 %r2, %tid.z;\nmov.u32 %r3, %ctaid.x;\n"
        "mov.u32 %r4, %ctaid.y;\nmad.lo.s32 %r5, %r2, 3, %r1;\nmad.lo.s32 %r5, %r5, 5, %r0;\n"
        "mad.lo.s32 %r6, %r4, 2, %r3;\nmad.lo.s32 %r5, %r6, 30, %r5;\nmul.wide.u32 %rd1, %r5, 4;\n"
        "add.s64 %rd1, %rd0, %rd1;\nred.global.add.u32 [%rd1], 1;\n",
        lanes=(5, 3, 2), groups=(2, 3, 1),
    )  # fmt: skip
    np.testing.assert_array_equal(bench.words(200), [1] * 180 + [0] * 20)


def test_atomics_of_all_groups_add_up(bench):
    bench(LANE + "atom.global.add.u32 %r1, [%rd0], 3;\n", lanes=96, groups=50)
    assert bench.words(1)[0] == 3 * 96 * 50


def test_atomics_tell_what_was_there(bench):
    bench(LANE + "atom.global.add.u32 %r1, [%rd0+512], %r0;\n" + STORE)
    assert sorted(bench.words()) == sorted(np.cumsum(np.arange(32)) - np.arange(32))
    bench(LANE + "atom.global.cas.b32 %r1, [%rd0+1024], 0, %r0;\n" + STORE)
    # Lane 0 replaces 0 by 0, so lane 1 finds it too; the others find the 1 of lane 1.
    np.testing.assert_array_equal(bench.words(), [0, 0] + [1] * 30)
    assert bench.words(257)[256] == 1


# What instructions do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shl.b32 %r1, %r10, %r11;", lambda a, b: np.where(b > 31, 0, a << (b & 31))),
        ("shr.u32 %r1, %r10, %r11;", lambda a, b: np.where(b > 31, 0, a >> (b & 31))),
        (
            "shr.s32 %r1, %r10, %r11;",
            lambda a, b: a.astype(np.uint32).view(np.int32).astype(np.int64)
            >> np.minimum(b, 31).astype(np.int64),
        ),
        ("min.s32 %r1, %r10, -5;", lambda a, b: np.minimum(a.astype(np.uint32).view(np.int32), -5)),
        ("mul.hi.u32 %r1, %r10, %r10;", lambda a, b: (a * a) >> np.uint64(32)),
        ("popc.b32 %r1, %r10;", lambda a, b: np.bitwise_count(a)),
        ("div.u32 %r1, %r10, %r11;", lambda a, b: np.where(b == 0, -1, a // np.maximum(b, 1))),
        ("bfe.u32 %r1, %r10, 4, 8;", lambda a, b: (a >> 4) & 0xFF),
        ("prmt.b32 %r1, %r10, %r11, 0x0123;", lambda a, b: a.astype(np.uint32).byteswap()),
        ("dp4a.u32.u32 %r1, %r10, %r10, 1;", lambda a, b: 1 + sum(
            ((a >> (8 * k)) & 0xFF) ** 2 for k in range(4))),
        ("lop3.b32 %r1, %r10, %r11, 0, 0x3C;", lambda a, b: a ^ b),
        ("shf.l.wrap.b32 %r1, %r10, %r10, 8;", lambda a, b: (a << 8) | (a >> 24)),
    ],
    ids=lambda x: x.split()[0] if isinstance(x, str) else "",
)  # fmt: skip
def test_integers(bench, text, expected):
    a = np.random.default_rng(1).integers(0, 1 << 32, 32, np.uint64)
    a[:4] = (0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF)
    b = np.resize(np.array((0, 1, 5, 31, 32, 33, 40, 200), np.uint64), 32)
    found = evaluate(bench, text, a, b)
    wanted = np.asarray(expected(a.astype(np.uint64), b.astype(np.uint64)))
    np.testing.assert_array_equal(found, wanted.astype(np.int64).astype(np.uint64) & 0xFFFF_FFFF)


def test_floats_to_integers_saturate(bench):
    values = np.resize(np.array([1e20, -1e20, np.nan, 2.5, -2.5, 3.5, np.inf], np.float32), 32)
    bits = values.view(np.uint32)
    found = evaluate(bench, "cvt.rni.s32.f32 %r1, %r10;", bits).astype(np.uint32).view(np.int32)
    expected = [2**31 - 1, -(2**31), 0, 2, -2, 4, 2**31 - 1]
    np.testing.assert_array_equal(found, np.resize(expected, 32))


def test_doubles_are_rounded_once_to_halves(bench):
    """Just above the middle of two halves, by less than a float can tell."""
    values = np.array([1 + 2**-11 + 2**-40, 1 + 2**-11, 1 + 2**-11 - 2**-40, -3.3])
    found = evaluate(bench, "cvt.rn.f16.f64 %rs1, %rd10;\nmov.b32 %r1, {%rs1, %rs1};",
                     np.resize(values, 32).view(np.uint64))  # fmt: skip
    expected = np.array([1 + 2**-10, 1, 1, -3.3], np.float16).view(np.uint16)
    np.testing.assert_array_equal(found[:4] & np.uint64(0xFFFF), expected)


@pytest.mark.parametrize("name", ["ex2.approx.ftz", "rcp.approx.ftz", "rsqrt.approx.ftz"])
def test_approximations_are_as_good_as_promised(bench, name):
    x = np.float32(np.random.default_rng(3).uniform(0.01, 60, 32))
    x = -x if name.startswith("ex2") else x
    found = evaluate(bench, f"{name}.f32 %r1, %r10;", x.view(np.uint32)).astype(np.uint32)
    wide = x.astype(np.float64)
    exact = {"ex": 2**wide, "rc": 1 / wide, "rs": abs(wide) ** -0.5}[name[:2]]
    np.testing.assert_allclose(found.view(np.float32), exact, rtol=2.5e-7)


def test_min_and_max_of_three(bench):
    a, b, c = np.random.default_rng(5).normal(size=(3, 32)).astype(np.float32)
    bits = [x.view(np.uint32) for x in (a, b, c)]
    found = evaluate(bench, "max.f32 %r1, %r10, %r11, %r12;", *bits).astype(np.uint32)
    np.testing.assert_array_equal(found.view(np.float32), np.maximum(np.maximum(a, b), c))


@pytest.mark.parametrize(("mode", "by"), [("up", 3), ("down", 5), ("bfly", 9), ("idx", 4)])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(bench, mode, by, width):
    bounds = ((32 - width) << 8) | (0 if mode == "up" else 31)
    found = evaluate(
        bench, f"shfl.sync.{mode}.b32 %r1|%p1, %r10, {by}, {bounds}, -1;", np.arange(32) + 100
    )
    lane = np.arange(32)
    other = {
        "up": lane - by,
        "down": lane + by,
        "bfly": lane ^ by,
        "idx": lane // width * width + by,
    }
    first = lane // width * width
    inside = other[mode] >= first if mode == "up" else other[mode] < first + width
    np.testing.assert_array_equal(found, np.where(inside, other[mode], lane) + 100)


# What goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("memory", "ld.global.b32 %r1, [%rd0+65536];"),
        ("memory", "st.global.b64 [%rd0+-8], %rd0;"),
        ("alignment", "ld.global.b64 %rd1, [%rd0+4];"),
        ("shared memory", "mov.b64 %rd1, 256;\nst.shared.b32 [%rd1], %r0;"),
        ("hang", "$here:\nbra.uni $here;"),
        (
            "diverged",
            "mov.u32 %r0, %tid.x;\nsetp.eq.b32 %p1, %r0, 0;\n@%p1 bra $past;\n"
            "shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;\n$past:",
        ),
        (
            "diverged",
            "mov.u32 %r0, %tid.x;\nsetp.eq.b32 %p1, %r0, 0;\n@%p1 bra $past;\nbar.sync 0;\n$past:",
        ),
        ("instruction", "wgmma.fence.sync.aligned;"),
        ("instruction", "add.rz.f32 %r1, %r1, %r1;"),
        ("syntax", "mov.b32 %r1, nothing;"),
        ("syntax", "mov.b32 %q1, 0;"),
        ("syntax", "bra $nowhere;"),
    ],
)
def test_faults_name_the_line(kind, body):
    bench = Bench(budget=1000)
    with pytest.raises(PtxFault) as told:
        bench(body)
    assert told.value.kind == kind
    if kind != "syntax":
        assert "line " in told.value.detail


def test_what_cannot_be_translated_counts_only_if_it_is_reached(bench):
    bench("bra.uni $past;\nwgmma.fence.sync.aligned;\n$past:\nst.global.b32 [%rd0], 1;")
    assert bench.words(1)[0] == 1


def test_a_launch_must_suit_the_kernel(bench):
    with pytest.raises(PtxFault, match="lanes in a group"):
        bench("", lanes=2048)
    with pytest.raises(PtxFault, match="bytes of shared memory"):
        bench("", shared=1 << 20)
    function = bench.model.load(f"{HEAD}.entry k(.param .u64 a) {{ ret; }}")["k"]
    with pytest.raises(PtxFault, match="0 bytes of arguments"):
        bench.model.run(function, (1, 1, 1), (32, 1, 1), b"")
    with pytest.raises(PtxFault, match=r"no \.entry"):
        bench.model.load("nothing at all")


def test_the_cache_keeps_what_was_translated(tmp_path):
    for _ in range(2):
        model = Model(cache=tmp_path, threads=1)
        model.run(model.load(f"{HEAD}.entry k() {{ ret; }}")["k"], (1, 1, 1), (32, 1, 1), b"")
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_in_many_windows(bench):
    # 64 windows of 64 bytes, in any order, whose host memory is laid out the other way round: what
    # all lanes load at once lies across two of them.
    data = np.arange(1024, dtype=np.uint32)
    bench.memory.view(np.uint32)[:1024] = data.reshape(64, 16)[::-1].reshape(-1)
    host = bench.memory.ctypes.data
    windows = [Window(START + 64 * k, 64, host + 64 * (63 - k)) for k in range(64)]
    windows.append(Window(START + (1 << 20), 1 << 12, host + (1 << 14)))
    bench.model.windows = windows[::-1]
    cost = bench(
        "mov.u32 %r0, %tid.x;\nmul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd2, %rd0, %rd1;\n"
        "ld.global.b32 %r1, [%rd2+32];\nadd.s64 %rd3, %rd2, 1048576;\n"
        "st.global.b32 [%rd3], %r1;",
        lanes=256,
    )
    found = bench.memory[1 << 14 :].view(np.uint32)[:256]
    assert (found == data[8 : 8 + 256]).all()
    assert cost.memory_bytes == 2 * 256 * 4
    with pytest.raises(PtxFault, match="memory") as told:
        bench("st.global.b32 [%rd0+4096], 1;")
    assert (told.value.address, told.value.write) == (START + 4096, True)


def test_words_of_other_compilers(bench):
    """Registers with longer names, or declared one by one; shared variables by their first byte."""
    text = f"""{HEAD}.visible .entry test(.param .u64 data0)
.maxntid 32
{{
.reg .u32 %lidx0;
.reg .u64 %dat_u64_<1>;
.reg .u64 %bidx_u64_<2>;
.reg .u32 %val_u32_<2>;
.reg .pred %alu_pred_<1>;
.shared .align 16 .b8 local0[128];
mov.u32 %lidx0, %tid.x;
ld.param.u64 %dat_u64_0, [data0+0];
mov.u64 %bidx_u64_0, local0[0];
cvt.s64.u32 %bidx_u64_1, %lidx0;
mad.lo.s64 %bidx_u64_1, %bidx_u64_1, 4, %bidx_u64_0;
st.shared.u32 [%bidx_u64_1+0], %lidx0;
bar.sync 0;
ld.shared.u32 %val_u32_0, [%bidx_u64_1+0];
setp.lt.u32 %alu_pred_0, %lidx0, 16;
@%alu_pred_0 mov.u32 %val_u32_0, 7;
cvt.s64.u32 %bidx_u64_1, %lidx0;
mad.lo.s64 %bidx_u64_1, %bidx_u64_1, 4, %dat_u64_0;
st.global.u32 [%bidx_u64_1+0], %val_u32_0;
ret;
}}
"""
    function = bench.model.load(text)["test"]
    bench.model.run(function, (1, 1, 1), (32, 1, 1), struct.pack("<Q", START))
    assert (bench.words() == [7] * 16 + list(range(16, 32))).all()
