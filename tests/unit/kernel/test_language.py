"""Words that run, on every host level: control, masks, workgroup, atomics, dots, mathematics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exosuit.kernel import (
    In,
    InOut,
    Out,
    Scalar,
    apply_sign,
    atomic_add,
    atomic_compare_exchange,
    atomic_exchange,
    atomic_max,
    atomic_min,
    barrier,
    constant,
    deal,
    dot4,
    each,
    exp,
    f32,
    group,
    group_max,
    group_min,
    group_sum,
    i8,
    i16,
    i32,
    i64,
    kernel,
    lane,
    leader,
    lookup16,
    loop,
    masked,
    pair_dot,
    pair_dot_bytes,
    prefetch,
    reciprocal,
    rsqrt,
    shared,
    shuffle_xor,
    sigmoid,
    sincos,
    tanh,
    target,
    u8,
    u32,
    variable,
    wave,
    wave_lane,
    wave_reduce,
    when,
    zeros,
)

RNG = np.random.default_rng(7)


# Control --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unroll", [None, 1, 4])
@pytest.mark.parametrize(("start", "stop", "step"), [(0, 7, 1), (2, 11, 3), (5, 5, 1), (9, 2, 1)])
def test_loops_count_like_range(run_host, start, stop, step, unroll):
    @kernel
    def counts(out: InOut[i32], last: Scalar[i32]) -> None:
        turns = variable(zeros(i32))
        for i in loop(last, start=start, step=step, unroll=unroll):
            out[turns.value] = i
            turns.value += 1
        out[15] = turns.value

    out = np.full(16, -1, np.int32)
    run_host(counts, out, stop)
    expected = list(range(start, stop, step))
    assert out[15] == len(expected)
    assert out[: len(expected)].tolist() == expected


def test_loops_nest_and_count_in_64_bits(run_host):
    @kernel
    def nested(out: Out[i64], n: Scalar[i64]) -> None:
        total = variable(zeros(i64))
        for i in loop(n, start=2**40):
            for _ in loop(3):
                with when((i & 1).eq(0)):
                    total.value += i
        out[0] = total.value

    out = np.zeros(1, np.int64)
    run_host(nested, out, 2**40 + 5)
    assert out[0] == 3 * sum(i for i in range(2**40, 2**40 + 5) if i % 2 == 0)


def test_when_branches(run_host):
    @kernel
    def guarded(x: In[i32], out: InOut[i32]) -> None:
        for i in loop(4):
            with when(x[i] > 0), when(x[i] < 10):
                out[i] = x[i]

    out = np.full(4, -1, np.int32)
    run_host(guarded, np.array([5, -5, 50, 9], np.int32), out)
    assert out.tolist() == [5, -1, -1, 9]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 24])
@pytest.mark.parametrize("fixed", [True, False])
def test_each_covers_exactly_the_count(run, n, fixed):
    @kernel
    def tails(x: In[f32], out: Out[f32], picked: Out[i32], total: Out[f32], n: Scalar[i32], *,
              count: int | None) -> None:  # fmt: skip
        whole = variable(constant(f32, 0.5, target().lanes))
        for i in each(n if count is None else count):
            out[i + 1] = x[i] + 1.0
            picked[i - 0] = (x[23 - i] * 2.0).to(i32)
            whole.value += x[i]
        total[0] = group_sum(whole.value)

    x = RNG.integers(1, 9, 24).astype(np.float32)
    out, picked, total = np.zeros(32, np.float32), np.zeros(32, np.int32), np.zeros(1, np.float32)
    run(tails, x, out, picked, total, n, count=n if fixed else None)
    np.testing.assert_array_equal(out, [0, *(x[:n] + 1), *[0] * (31 - n)])
    np.testing.assert_array_equal(picked, [*(2 * x[::-1][:n]), *[0] * (32 - n)])
    assert total[0] == x[:n].sum() + 0.5 * run.target.lanes


def test_gather_and_scatter_touch_only_lanes_that_are_on(run):
    """Indices of lanes that are off point far outside of memory."""

    @kernel
    def permute(x: In[i32], order: In[i32], out: Out[i32], n: Scalar[i32]) -> None:
        for i in each(n):
            out[order[i]] = x[order[i]] * 10

    order = np.array([3, 1, 4, 0, 2] + [2**28] * 11, np.int32)
    out = np.zeros(8, np.int32)
    run(permute, np.arange(8, dtype=np.int32), order, out, 5)
    assert out.tolist() == [0, 10, 20, 30, 40, 0, 0, 0]


def test_masked_keeps_what_is_off(run):
    @kernel
    def evens(x: In[i32], out: InOut[i32]) -> None:
        for i in each(8):
            odd = variable(x[i])
            with masked((x[i] & 1).ne(0)):
                odd.value = odd.value * 100
                out[i] = odd.value
                with masked(x[i] > 4):
                    out[i] = odd.value + 1

    out = np.full(8, -1, np.int32)
    run(evens, np.arange(8, dtype=np.int32), out)
    assert out.tolist() == [-1, 100, -1, 300, -1, 501, -1, 701]


def test_masked_by_one_lane_is_a_branch(run_host):
    @kernel
    def guarded(out: InOut[i32], n: Scalar[i32]) -> None:
        with masked(n > 0):
            out[0] = n

    out = np.zeros(1, np.int32)
    run_host(guarded, out, -3)
    assert out[0] == 0
    run_host(guarded, out, 3)
    assert out[0] == 3


def test_deal_gives_each_index_once(run_host):
    @kernel
    def touch(out: InOut[i32], n: Scalar[i32]) -> None:
        for i in deal(n):
            out.store(out.load(i * 4, 4) + 1, i * 4)

    out = np.zeros(16, np.int32)
    run_host(touch, out, 3)
    assert out.tolist() == [1] * 12 + [0] * 4


# The workgroup --------------------------------------------------------------------------------


def test_groups_lanes_waves_and_shared_memory(run):
    @kernel
    def ids(out: Out[i32], *, lanes: int) -> None:
        memory = shared(i32, lanes)
        for i in each(lanes):
            memory[i] = lane() + group() * 100 + wave() + wave_lane() * 0
        barrier()
        for i in each(lanes):
            out[group() * lanes + i] = memory[i]
        with leader():
            out[group() * lanes] = -group()

    lanes = run.target.lanes
    out = np.zeros((3, lanes), np.int32)
    run(ids, out, groups=3, lanes=lanes)
    expected = np.arange(lanes) + np.arange(3)[:, None] * 100
    expected[:, 0] = [0, -1, -2]
    np.testing.assert_array_equal(out, expected)


def test_reductions_of_the_group(run):
    @kernel
    def reduce(x: In[f32], out: Out[f32]) -> None:
        for i in each(8):
            v = x[i]
            out[0] = group_sum(v)
            out[1] = group_max(v)
            out[2] = group_min(v)
            out[3] = wave_reduce("max", v)

    x = RNG.permutation(8).astype(np.float32)
    out = np.zeros(4, np.float32)
    run(reduce, x, out)
    assert out.tolist() == [28, 7, 0, 7]


@pytest.mark.parametrize("mask", [1, 2, 5, 7])
def test_shuffle_xor(run, mask):
    @kernel
    def exchange(x: In[f32], out: Out[f32]) -> None:
        for i in each(8):
            out[i] = shuffle_xor(x[i], mask)

    x, out = RNG.random(8, np.float32), np.zeros(8, np.float32)
    run(exchange, x, out)
    np.testing.assert_array_equal(out, x[np.arange(8) ^ mask])


# Atomics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "numpy"), [(i32, np.int32), (u32, np.uint32), (f32, np.float32)])
def test_atomics(run_host, dtype, numpy):
    def atomics(memory, seen) -> None:
        for k, word in enumerate((atomic_add, atomic_max, atomic_min, atomic_exchange)):
            seen[k] = word(memory, k, 7)

    atomics.__annotations__ = {"memory": InOut[dtype], "seen": Out[dtype]}
    memory, seen = np.array([1, 2, 30, 4], numpy), np.zeros(4, numpy)
    run_host(kernel(atomics), memory, seen)
    assert seen.tolist() == [1, 2, 30, 4]
    assert memory.tolist() == [8, 7, 7, 7]


def test_atomics_by_lane_with_clashes_and_tails(run):
    @kernel
    def count(bins: In[i32], weights: In[f32], totals: InOut[f32], before: Out[f32]) -> None:
        for i in each(13):
            before[i] = atomic_add(totals, bins[i], weights[i])

    bins = RNG.integers(0, 3, 16, np.int32)
    weights = RNG.integers(1, 9, 16).astype(np.float32)
    totals, before = np.zeros(3, np.float32), np.zeros(16, np.float32)
    run(count, bins, weights, totals, before)
    np.testing.assert_array_equal(totals, np.bincount(bins[:13], weights[:13], 3))
    running = np.zeros(3)
    for k in range(13):
        assert before[k] == running[bins[k]]
        running[bins[k]] += weights[k]


def test_compare_exchange(run_host):
    @kernel
    def swap(memory: InOut[i64], seen: Out[i64]) -> None:
        seen[0] = atomic_compare_exchange(memory, 0, constant(i64, 5), constant(i64, 9))
        seen[1] = atomic_compare_exchange(memory, 0, constant(i64, 5), constant(i64, 1))

    memory, seen = np.array([5], np.int64), np.zeros(2, np.int64)
    run_host(swap, memory, seen)
    assert (memory[0], seen.tolist()) == (9, [5, 9])


# Dots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("signs", ["u8 i8", "i8 i8", "u8 u8", "i8 u8"])
def test_dot4_is_exact_at_the_extremes(run, lanes, signs):
    types = {"u8": (u8, np.uint8), "i8": (i8, np.int8)}
    (a_type, a_numpy), (b_type, b_numpy) = (types[sign] for sign in signs.split())

    def dot(a, b, start, out) -> None:
        out.store(dot4(a.load(0, 4 * lanes), b.load(0, 4 * lanes), start.load(0, lanes)), 0)

    dot.__annotations__ = {"a": In[a_type], "b": In[b_type], "start": In[i32], "out": Out[i32]}
    program = kernel(dot)
    extremes = [
        (np.iinfo(a_numpy).max, np.iinfo(b_numpy).min),
        (np.iinfo(a_numpy).min, np.iinfo(b_numpy).min),
        (np.iinfo(a_numpy).max, np.iinfo(b_numpy).max),
    ]
    cases = [(np.full(4 * lanes, a), np.full(4 * lanes, b)) for a, b in extremes]
    cases.append(
        (RNG.integers(*_range(a_numpy), 4 * lanes), RNG.integers(*_range(b_numpy), 4 * lanes))
    )
    start = RNG.integers(-1000, 1000, lanes, np.int32)
    for a, b in cases:
        out = np.zeros(lanes, np.int32)
        run(program, a.astype(a_numpy), b.astype(b_numpy), start, out)
        exact = (a.astype(np.int64) * b.astype(np.int64)).reshape(lanes, 4).sum(1) + start
        np.testing.assert_array_equal(out, exact)


def _range(numpy: type) -> tuple[int, int]:
    return np.iinfo(numpy).min, np.iinfo(numpy).max + 1


@pytest.mark.parametrize("lanes", [16, 32, 64])
def test_pairs_and_signs_of_x86(run, lanes):
    if not run.target.has("pair_dot"):
        pytest.skip("these words are x86's own")

    @kernel
    def pairs(a: In[u8], b: In[i8], c: In[i16], bytes_: Out[i16], words: Out[i32],
              signed: Out[i8]) -> None:  # fmt: skip
        bytes_.store(pair_dot_bytes(a.load(0, lanes), b.load(0, lanes)), 0)
        words.store(pair_dot(c.load(0, lanes // 2), c.load(0, lanes // 2)), 0)
        signed.store(apply_sign(b.load(0, lanes), b.load(1, lanes)), 0)

    a = RNG.integers(0, 64, lanes, np.uint8)
    b = RNG.integers(-127, 128, lanes + 1, np.int8)
    b[3] = 0
    c = RNG.integers(-32768, 32768, lanes // 2).astype(np.int16)
    c[:2] = -32767
    outs = np.zeros(lanes // 2, np.int16), np.zeros(lanes // 4, np.int32), np.zeros(lanes, np.int8)
    run(pairs, a, b, c, *outs)
    products = a.astype(np.int32) * b[:lanes]
    np.testing.assert_array_equal(outs[0], products.reshape(-1, 2).sum(1))
    np.testing.assert_array_equal(outs[1], (c.astype(np.int64) ** 2).reshape(-1, 2).sum(1))
    np.testing.assert_array_equal(outs[2], b[:lanes] * np.sign(b[1:]))


@pytest.mark.parametrize("lanes", [16, 32, 64])
def test_lookup16(run, lanes):
    table = [int(x) for x in RNG.integers(-128, 128, 16)]

    @kernel
    def look(index: In[u8], out: Out[i8]) -> None:
        out.store(lookup16(table, index.load(0, lanes)), 0)

    index, out = RNG.integers(0, 16, lanes, np.uint8), np.zeros(lanes, np.int8)
    run(look, index, out)
    np.testing.assert_array_equal(out, np.array(table, np.int8)[index])


# Mathematics ----------------------------------------------------------------------------------


def _on_host(run, function, x):
    @kernel
    def apply(x: In[f32], y: Out[f32], n: Scalar[i32]) -> None:
        for i in each(n):
            y[i] = function(x[i])

    y = np.zeros_like(x)
    run(apply, x, y, len(x))
    return y.astype(np.float64)


def _units(actual, exact):
    """Error in units of the last place of the exact result as f32."""
    return np.abs(actual - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def test_exp(run):
    x = np.concatenate([np.linspace(-87, 88.7, 20011), [0, -0.0, 1]]).astype(np.float32)
    assert _units(_on_host(run, exp, x), np.exp(x.astype(np.float64))).max() < 3
    edges = np.array([-np.inf, -1e30, -87.4, 89, 1e30, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(
        _on_host(run, exp, edges), [0, 0, 0, np.inf, np.inf, np.inf, np.nan]
    )


def test_sigmoid_and_tanh(run):
    x = np.concatenate([np.linspace(-20, 20, 9999), [-200, 200]]).astype(np.float32)
    wide = x.astype(np.float64)
    # Absolute bounds: near 0 and at the saturated end that is what activations need.
    np.testing.assert_allclose(_on_host(run, sigmoid, x), 1 / (1 + np.exp(-wide)), atol=2e-7)
    np.testing.assert_allclose(_on_host(run, tanh, x), np.tanh(wide), atol=4e-7)
    for function in (sigmoid, tanh):
        assert math.isnan(_on_host(run, function, np.array([np.nan], np.float32))[0])


@pytest.mark.parametrize(("limit", "bound"), [(100, 2e-7), (1e4, 1e-6), (1e5, 1e-5)])
def test_sine_and_cosine(run, limit, bound):
    x = np.linspace(-limit, limit, 30011).astype(np.float32)
    wide = x.astype(np.float64)
    assert np.abs(_on_host(run, lambda v: sincos(v)[0], x) - np.sin(wide)).max() < bound
    assert np.abs(_on_host(run, lambda v: sincos(v)[1], x) - np.cos(wide)).max() < bound


def test_roots_and_reciprocals(run):
    x = np.geomspace(1e-30, 1e30, 5001).astype(np.float32)
    wide = x.astype(np.float64)
    assert _units(_on_host(run, rsqrt, x), 1 / np.sqrt(wide)).max() < 1.5
    assert _units(_on_host(run, reciprocal, x), 1 / wide).max() <= 0.5


def test_prefetch_and_streaming_change_nothing(run):
    @kernel
    def copy(x: In[f32], y: Out[f32]) -> None:
        prefetch(x, 1000)
        prefetch(x, 2000, keep=False)
        for i in loop(16, step=8):
            y.store(x.load(i, 8, align=4, streaming=True), i)

    x, y = RNG.random(16, np.float32), np.zeros(16, np.float32)
    run(copy, x, y)
    np.testing.assert_array_equal(x, y)
