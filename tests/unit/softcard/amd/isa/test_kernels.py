"""Whole kernels of the kernel language as LLVM makes them for gfx1100, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.softcard.amd.isa.flat import FlatCard

from exosuit.driver.amd.loader import load
from exosuit.kernel import (
    In,
    InOut,
    Out,
    Scalar,
    Target,
    atomic_add,
    atomic_compare_exchange,
    atomic_max,
    barrier,
    bf16,
    compile_kernel,
    dot4,
    each,
    exp,
    f16,
    f32,
    group,
    group_max,
    group_sum,
    i8,
    i32,
    kernel,
    lane,
    loop,
    mma,
    mma_tile,
    shared,
    shuffle_xor,
    sincos,
    sqrt,
    u32,
    variable,
    when,
    zeros,
)
from exosuit.softcard.amd.isa import translate
from exosuit.softcard.amd.isa.decode import decode
from exosuit.softcard.amd.isa.wave import FloatMode
from exosuit.softcard.translation.host import compile_ir

TARGET = Target.named("gfx1100")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def card() -> FlatCard:
    return FlatCard(16 << 20, threads=2)


def run(card, kernel_, groups, *arguments, **static):
    """Run once; what arrays hold afterwards, in their order."""
    card.top = 4096
    program = compile_kernel(kernel_, TARGET, **static)
    places = [card.place(x) if isinstance(x, np.ndarray) else x for x in arguments]
    card.launch_program(program, places, groups)
    assert not card.tlb.faults
    return [
        card.read(place, x.dtype, x.size).reshape(x.shape)
        for place, x in zip(places, arguments, strict=True)
        if isinstance(x, np.ndarray)
    ]


@kernel
def add(x: In[f32], y: In[f32], out: Out[f32], count: Scalar[i32]) -> None:
    i = group() * 256 + lane()
    with when(i < count):
        out[i] = x[i] + y[i]


def test_a_tail_is_masked(card):
    x, y = RNG.normal(size=(2, 1024)).astype(np.float32)
    found = run(card, add, 4, x, y, np.full(1024, 7, np.float32), 1000)[2]
    np.testing.assert_array_equal(found[:1000], (x + y)[:1000])
    assert (found[1000:] == 7).all()


@kernel
def softmax(x: In[f32], out: Out[f32], *, width: int) -> None:
    row, result = x.at(group() * width), out.at(group() * width)
    largest = variable(zeros(f32, 1) - 1e30)
    for i in each(width):
        with when(row[i] > largest.value):
            largest.value = row[i]
    top = group_max(largest.value)
    total = variable(zeros(f32))
    for i in each(width):
        total.value += exp(row[i] - top)
    whole = group_sum(total.value)
    for i in each(width):
        result[i] = exp(row[i] - top) / whole


@pytest.mark.parametrize("width", [5, 256, 1000])
def test_softmax(card, width):
    x = (RNG.normal(size=(3, width)) * 5).astype(np.float32)
    found = run(card, softmax, 3, x, np.zeros_like(x), width=width)[1]
    power = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(found, power / power.sum(1, keepdims=True), rtol=2e-6, atol=1e-12)


@kernel
def turn(x: In[i32], out: Out[i32]) -> None:
    """Through shared memory, backwards, then among neighbours of a wave."""
    table = shared(i32, 256)
    start = group() * 256
    table[lane()] = x[start + lane()]
    barrier()
    value = table[255 - lane()]
    out[start + lane()] = shuffle_xor(value, 1) + shuffle_xor(value, 16)


def test_shared_memory_and_shuffles(card):
    x = RNG.integers(-1000, 1000, (3, 256)).astype(np.int32)
    found = run(card, turn, 3, x, np.zeros_like(x))[1]
    back, k = x[:, ::-1], np.arange(256)
    np.testing.assert_array_equal(found, back[:, k ^ 1] + back[:, k ^ 16])


@kernel
def collatz(out: Out[i32]) -> None:
    """Loops of a different length in every lane."""
    number = variable(lane() + 1)
    steps = variable(zeros(i32))
    for _ in loop(200):
        with when(number.value.ne(1)):
            odd = number.value & 1
            number.value = number.value * (odd * 2 + 1) + odd
            with when(odd.eq(0)):
                number.value = number.value >> 1
            steps.value += 1
    out[lane()] = steps.value


def test_divergence(card):
    def steps(n: int) -> int:
        count = 0
        while n != 1 and count < 200:
            n, count = (3 * n + 1 if n & 1 else n >> 1), count + 1
        return count

    found = run(card, collatz, 1, np.zeros(256, np.int32))[0]
    np.testing.assert_array_equal(found, [steps(k + 1) for k in range(256)])


@kernel
def count_up(values: In[i32], bins: InOut[i32], most: InOut[i32], last: InOut[u32]) -> None:
    value = values[group() * 256 + lane()]
    atomic_add(bins, value & 15, zeros(i32) + 1)
    atomic_max(most, 0, value)
    atomic_compare_exchange(last, 0, zeros(u32), zeros(u32) + 5)


def test_atomics_of_many_groups(card):
    values = RNG.integers(0, 1 << 20, 8192).astype(np.int32)
    _, bins, most, last = run(
        card, count_up, 32, values, np.zeros(16, np.int32), np.zeros(1, np.int32),
        np.zeros(1, np.uint32),
    )  # fmt: skip
    np.testing.assert_array_equal(bins, np.bincount(values & 15, minlength=16))
    assert most[0] == values.max()
    assert last[0] == 5


@kernel(group_size=32)
def dots(x: In[i8], y: In[i8], out: Out[i32], *, words: int) -> None:
    total = variable(zeros(i32))
    for k in loop(words):
        at = (k * 32 + lane()) * 4
        total.value = dot4(x.load(at, 4), y.load(at, 4), total.value)
    out[lane()] = total.value


def test_bytes_are_multiplied_four_at_a_time(card):
    x, y = RNG.integers(-128, 128, (2, 40, 32, 4)).astype(np.int8)
    found = run(card, dots, 1, x, y, np.zeros(32, np.int32), words=40)[2]
    np.testing.assert_array_equal(found, (x.astype(np.int32) * y).sum((0, 2)))


@kernel(group_size=32)
def product_f16(a: In[f16], b: In[f16], c: Out[f32], *, k: int) -> None:
    tile = mma_tile(f16)
    total = variable(tile.zeros())
    for at in loop(k, step=tile.k):
        total.value = mma(tile.load_a(a.at(at), k), tile.load_b(b.at(at), k), total.value)
    for row, column, value in tile.elements(total.value):
        c[row * tile.n + column] = value


@kernel(group_size=32)
def product_bf16(a: In[bf16], b: In[bf16], c: Out[f32], *, k: int) -> None:
    tile = mma_tile(bf16)
    total = variable(tile.zeros())
    for at in loop(k, step=tile.k):
        total.value = mma(tile.load_a(a.at(at), k), tile.load_b(b.at(at), k), total.value)
    for row, column, value in tile.elements(total.value):
        c[row * tile.n + column] = value


@kernel(group_size=32)
def product_i8(a: In[i8], b: In[i8], c: Out[i32], *, k: int) -> None:
    tile = mma_tile(i8)
    total = variable(tile.zeros())
    for at in loop(k, step=tile.k):
        total.value = mma(tile.load_a(a.at(at), k), tile.load_b(b.at(at), k), total.value)
    for row, column, value in tile.elements(total.value):
        c[row * tile.n + column] = value


def test_matrix_units(card):
    k = 96
    a, b = RNG.normal(size=(2, 16, k)).astype(np.float32)
    p, q = a.astype(np.float16), b.astype(np.float16)
    found = run(card, product_f16, 1, p, q, np.zeros((16, 16), np.float32), k=k)[2]
    np.testing.assert_allclose(found, p.astype(np.float64) @ q.T.astype(np.float64), atol=1e-4)
    u, v = ((x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b))
    found = run(card, product_bf16, 1, u, v, np.zeros((16, 16), np.float32), k=k)[2]
    wide = [(x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for x in (u, v)]
    np.testing.assert_allclose(found, wide[0] @ wide[1].T, atol=1e-4)
    i, j = RNG.integers(-128, 128, (2, 16, k)).astype(np.int8)
    found = run(card, product_i8, 1, i, j, np.zeros((16, 16), np.int32), k=k)[2]
    np.testing.assert_array_equal(found, i.astype(np.int32) @ j.T.astype(np.int32))


@kernel
def curves(x: In[f32], out: Out[f32]) -> None:
    i = group() * 256 + lane()
    sine, cosine = sincos(x[i])
    out[3 * i] = sine
    out[3 * i + 1] = cosine
    out[3 * i + 2] = sqrt(x[i] * x[i] + 1) / (x[i] * x[i] + 3)


def test_mathematics(card):
    x = np.linspace(-30, 30, 512).astype(np.float32)
    found = run(card, curves, 2, x, np.zeros((512, 3), np.float32))[1]
    wide = x.astype(np.float64)
    expected = [np.sin(wide), np.cos(wide), np.sqrt(wide**2 + 1) / (wide**2 + 3)]
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=2e-6)


def test_ordinary_kernels_are_translated_quickly():
    """A second at most, also on a busy machine: the time counted is this process's own."""
    import time

    image = load(compile_kernel(softmax, TARGET, width=1000).code, "softmax")
    code, entry = image.bytes, image.entry_offset
    began = time.process_time()
    blocks = decode(lambda at: int.from_bytes(code[entry + at : entry + at + 4], "little"))
    compile_ir(translate.translate(blocks, FloatMode()))
    assert time.process_time() - began < 1.0
