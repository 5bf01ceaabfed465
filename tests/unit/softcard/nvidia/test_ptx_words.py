"""Words of the kernel language that ops do not use yet, on PTX: matrix units, copies, pairs."""

from __future__ import annotations

import numpy as np
import pytest
from tests.softcard.ptx_ops.conftest import PtxRunner

from exosuit.kernel import (
    In,
    Out,
    Target,
    async_commit,
    async_copy,
    async_wait,
    barrier,
    f16,
    f32,
    fma,
    i8,
    i32,
    kernel,
    lane,
    mma,
    mma_tile,
    shared,
    u8,
)


@pytest.fixture(scope="module", params=["sm_80", "sm_120"])
def run(request):
    runner = PtxRunner(Target.named(request.param))
    yield runner
    runner.device.close()


@kernel(group_size=32)
def product_f16(a: In[f16], b: In[f16], out: Out[f32]) -> None:
    """Rows of a times rows of b, both [16 or 8, 32]: two steps of the unit."""
    tile = mma_tile(f16)
    total = tile.zeros()
    for k in range(0, 32, tile.k):
        total = mma(tile.load_a(a.at(k), 32), tile.load_b(b.at(k), 32), total)
    for place, (row, column) in enumerate(tile.c_places()):
        out[row * 8 + column] = total[place]


@kernel(group_size=32)
def product_i8(a: In[i8], b: In[u8], out: Out[i32]) -> None:
    tile = mma_tile(i8)
    total = mma(tile.load_a(a, 32), tile.load_b(b, 32), tile.zeros())
    for place, (row, column) in enumerate(tile.c_places()):
        out[row * 8 + column] = total[place]


@kernel(group_size=64)
def copied(x: In[u8], out: Out[u8]) -> None:
    """Each lane reads what its mirror has copied."""
    memory = shared(u8, 1024)
    async_copy(memory, lane() * 16, x, lane() * 16, 16)
    async_commit()
    async_wait()
    barrier()
    out.store(memory.load((63 - lane()) * 16, 16, align=16), lane() * 16)


@kernel(group_size=32)
def fused(a: In[f16], b: In[f16], c: In[f16], out: Out[f16]) -> None:
    pair = lane() * 2
    out.store(fma(a.load(pair, 2), b.load(pair, 2), c.load(pair, 2)), pair)


def test_products_of_halves(run):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 32)).astype(np.float16) for n in (16, 8))
    out = np.zeros((16, 8), np.float32)
    run(product_f16, 1, a, b, out)
    np.testing.assert_allclose(out, a.astype(np.float64) @ b.T.astype(np.float64), atol=2e-6)


def test_products_of_bytes(run):
    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, (16, 32), np.int8)
    b = rng.integers(0, 256, (8, 32), np.uint8)
    out = np.zeros((16, 8), np.int32)
    run(product_i8, 1, a, b, out)
    np.testing.assert_array_equal(out, a.astype(int) @ b.T.astype(int))


def test_copies_in_the_background(run):
    x = np.random.default_rng(1).integers(0, 256, 1024, np.uint8)
    out = np.zeros_like(x)
    run(copied, 1, x, out)
    np.testing.assert_array_equal(out.reshape(64, 16), x.reshape(64, 16)[::-1])


def test_pairs_of_halves(run):
    a, b, c = np.random.default_rng(2).normal(size=(3, 64)).astype(np.float16)
    out = np.zeros(64, np.float16)
    run(fused, 1, a, b, c, out)
    exact = a.astype(np.float64) * b + c
    np.testing.assert_array_equal(out, exact.astype(np.float16))
