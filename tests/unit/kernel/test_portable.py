"""Eight kernels, each written once: right on the host (NumPy), and good code for every GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from exosuit.errors import NotOnTarget
from exosuit.kernel import (
    In,
    InOut,
    Kernel,
    Out,
    Scalar,
    Target,
    atomic_add,
    bf16,
    compile_kernel,
    constant,
    deal,
    dot4,
    each,
    exp,
    f16,
    f32,
    fma,
    group,
    group_max,
    group_sum,
    i8,
    i32,
    kernel,
    leader,
    loop,
    maximum,
    minimum,
    mma,
    mma_tile,
    reciprocal,
    rsqrt,
    sincos,
    target,
    u8,
    variable,
    wave,
    zeros,
)
from exosuit.kernel.types import DTypeClass

RNG = np.random.default_rng(2)


@kernel
def vadd(a: In[f32], b: In[f32], c: Out[f32], n: Scalar[i32]) -> None:
    first = group() * 1024
    for i in each(minimum(n - first, 1024)):
        c[first + i] = a[first + i] + b[first + i]


@kernel
def rms_norm(x: In[f32], gain: In[f16], y: Out[f32], n: Scalar[i32], epsilon: Scalar[f32]) -> None:
    row = group() * n
    squares = variable(zeros(f32, target().lanes))
    for i in each(n):
        v = x[row + i]
        squares.value = fma(v, v, squares.value)
    factor = rsqrt(group_sum(squares.value) / n.to(f32) + epsilon)
    for i in each(n):
        y[row + i] = x[row + i] * factor * gain[i].to(f32)


@kernel
def softmax(x: In[f32], y: Out[f32], n: Scalar[i32]) -> None:
    row = group() * n
    largest = variable(constant(f32, -np.inf, target().lanes))
    for i in each(n):
        largest.value = maximum(largest.value, x[row + i])
    top = group_max(largest.value)
    total = variable(zeros(f32, target().lanes))
    for i in each(n):
        total.value += exp(x[row + i] - top)
    factor = reciprocal(group_sum(total.value))
    for i in each(n):
        y[row + i] = exp(x[row + i] - top) * factor


@kernel(group_size=64)
def q8_matvec(
    weights: In[i8], scales: In[f16], x: In[i8], x_scales: In[f32], y: Out[f32], n: Scalar[i32]
) -> None:
    """One row per workgroup, blocks of 32 with a scale each."""
    blocks = n // 32
    row = group() * blocks
    total = variable(zeros(f32))
    for block in deal(blocks):
        w = weights.load((row + block) * 32, 32, align=16)
        v = x.load(block * 32, 32, align=16)
        dot = dot4(w, v, zeros(i32, 8)).reduce("add")
        total.value += dot.to(f32) * (scales[row + block].to(f32) * x_scales[block])
    result = group_sum(total.value)
    with leader():
        y[group()] = result


@kernel(group_size=64)
def gemm(
    a: In[u8], b: In[u8], c: Out[u8], n: Scalar[i32], k: Scalar[i32], *, dtype: DTypeClass
) -> None:
    """Two waves, one tile of C each; B is transposed."""
    tile = mma_tile(dtype)
    first_row, first_column = wave() * tile.m, group() * tile.n
    left, right = a.view(dtype).at(first_row * k), b.view(dtype).at(first_column * k)
    total = variable(tile.zeros())
    for at in loop(k, step=tile.k):
        total.value = mma(tile.load_a(left.at(at), k), tile.load_b(right.at(at), k), total.value)
    for row, column, value in tile.elements(total.value):
        c.view(tile.accumulator)[(first_row + row) * n + first_column + column] = value


@kernel(group_size=1024)
def reduction(x: In[f32], out: InOut[f32], n: Scalar[i32]) -> None:
    total = variable(zeros(f32, target().lanes))
    for i in each(n):
        total.value += x[group() * n + i]
    result = group_sum(total.value)
    with leader():
        atomic_add(out, 0, result)


@kernel(group_size=32)
def rope(x: InOut[f32], positions: In[i32], frequencies: In[f32], *, pairs: int) -> None:
    row = group() * (2 * pairs)
    position = positions[group()].to(f32)
    for i in each(pairs):
        sine, cosine = sincos(frequencies[i] * position)
        a, b = x[row + i], x[row + pairs + i]
        x[row + i] = a * cosine - b * sine
        x[row + pairs + i] = a * sine + b * cosine


@kernel
def histogram(x: In[u8], counts: InOut[i32], n: Scalar[i32]) -> None:
    first = group() * 1024
    for i in each(minimum(n - first, 1024)):
        atomic_add(counts, x[first + i].to(i32), 1)


# On the host ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 1024, 2051])
def test_vadd(run, n):
    a, b = RNG.standard_normal((2, n), np.float32)
    c = np.zeros(n + 8, np.float32)
    run(vadd, a, b, c, n, groups=-(-n // 1024))
    np.testing.assert_array_equal(c[:n], a + b)
    assert not c[n:].any()


@pytest.mark.parametrize("n", [3, 64, 577])
def test_rms_norm(run, n):
    x, gain = RNG.standard_normal((4, n), np.float32), RNG.random(n).astype(np.float16)
    y = np.zeros_like(x)
    run(rms_norm, x, gain, y, n, 1e-5, groups=4)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("n", [1, 9, 300])
def test_softmax(run, n):
    x = (RNG.standard_normal((3, n)) * 20).astype(np.float32)
    y = np.zeros_like(x)
    run(softmax, x, y, n, groups=3)
    wide = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    # x - max is itself rounded: half a unit of 100 or so, which exp turns into a relative error.
    np.testing.assert_allclose(y, wide / wide.sum(1, keepdims=True), rtol=1e-5, atol=1e-37)


def test_q8_matvec(run):
    rows, n = 5, 96
    weights = RNG.integers(-128, 128, (rows, n), np.int8)
    weights[0] = -128
    x = RNG.integers(-128, 128, n, np.int8)
    scales = RNG.random((rows, n // 32)).astype(np.float16)
    x_scales = RNG.random(n // 32).astype(np.float32)
    y = np.zeros(rows, np.float32)
    run(q8_matvec, weights, scales, x, x_scales, y, n, groups=rows)
    dots = (weights.astype(np.int64) * x).reshape(rows, -1, 32).sum(2)
    np.testing.assert_allclose(y, (dots * scales.astype(np.float64) * x_scales).sum(1), rtol=1e-5)


def test_gemm_is_refused_on_the_host(run):
    with pytest.raises(NotOnTarget) as refused:
        run(gemm, *[np.zeros(1, np.float16)] * 3, 16, 16, dtype=f16)
    assert refused.value.fields["capability"] == "mma"
    assert re.fullmatch(r".*test_portable\.py:\d+", refused.value.fields["place"])


def test_reduction(run):
    x, out = RNG.random((6, 333), np.float32), np.full(1, 2.0, np.float32)
    run(reduction, x, out, 333, groups=6)
    np.testing.assert_allclose(out[0], 2.0 + x.astype(np.float64).sum(), rtol=1e-6)


def test_rope(run):
    pairs, positions = 20, np.array([0, 1, 4000], np.int32)
    x = RNG.standard_normal((3, 2 * pairs), np.float32)
    frequencies = (10000.0 ** (-np.arange(pairs) / pairs)).astype(np.float32)
    y = x.copy()
    run(rope, y, positions, frequencies, groups=3, pairs=pairs)
    # The angle itself is a float of 24 bits; the reference starts from it.
    angle = (positions[:, None].astype(np.float32) * frequencies).astype(np.float64)
    a, b = x[:, :pairs], x[:, pairs:]
    expected = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
    np.testing.assert_allclose(y, np.concatenate(expected, 1), atol=5e-6)


def test_histogram(run):
    x, counts = RNG.integers(0, 5, 2500, np.uint8), np.zeros(256, np.int32)
    run(histogram, x, counts, 2500, groups=3)
    np.testing.assert_array_equal(counts, np.bincount(x, minlength=256))


# For GPUs -------------------------------------------------------------------------------------

KERNELS: list[tuple[Kernel, dict[str, Any]]] = [
    (vadd, {}),
    (rms_norm, {}),
    (softmax, {}),
    (q8_matvec, {}),
    *((gemm, {"dtype": dtype}) for dtype in (f16, bf16, i8, u8)),
    (reduction, {}),
    (rope, {"pairs": 64}),
    (histogram, {}),
]

# What must be found in the code: AMD (gfx11 and gfx12 agree on these), NVIDIA.
EXPECTED = {
    "vadd": (["global_load_b32", "global_store_b32"], ["ld.global.nc", "st.global"]),
    "rms_norm": (
        ["v_rsq_f32", "row_xmask:8", "v_permlanex16_b32", "ds_store_b32", "ds_load_b32"],
        ["rsqrt.approx", "shfl.sync.bfly", "bar.sync", "st.shared", "ld.shared"],
    ),
    "softmax": (["v_exp_f32", "v_rcp_f32", "v_max"], ["ex2.approx", "rcp.approx", "max.f32"]),
    "q8_matvec": (["v_dot4_i32_iu8", "global_load_b128"], ["dp4a.s32.s32", "ld.global.nc.v4"]),
    "reduction": (["global_atomic_add_f32"], ["atom.global.add.f32"]),
    "rope": (["v_rndne_f32"], ["cvt.rni"]),
    "histogram": (["global_atomic_add_u32"], ["atom.global.add.u32"]),
    "gemm.f16": (["v_wmma_f32_16x16x16_f16"], ["mma.sync.aligned.m16n8k16", "f16.f16.f32"]),
    "gemm.bf16": (["v_wmma_f32_16x16x16_bf16"], ["mma.sync.aligned.m16n8k16", "bf16.bf16"]),
    "gemm.i8": (
        ["v_wmma_i32_16x16x16_iu8", "neg_lo:[1,1,0]"],
        ["mma.sync.aligned.m16n8k32", "s8.s8"],
    ),
    "gemm.u8": (["v_wmma_i32_16x16x16_iu8"], ["mma.sync.aligned.m16n8k32", "u8.u8"]),
}


def _name(kernel: Kernel, static: dict[str, Any]) -> str:
    return ".".join([kernel.name, *(dtype.__name__ for dtype in static.values() if kernel is gemm)])


def test_amd_code(amd, assembly):
    for kernel_, static in KERNELS:
        text = assembly(kernel_, amd, **static)
        for wanted in EXPECTED[_name(kernel_, static)][0]:
            assert wanted in text, f"{_name(kernel_, static)} lacks {wanted}:\n{text}"
        for zero in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
            assert re.search(rf"\.{zero}: +0\n", text), f"{_name(kernel_, static)}: {zero}"
        assert "buffer_gl0_inv" not in text  # fences stay within the workgroup's memory
        assert "scratch_" not in text
        kernarg = re.search(r"\.kernarg_segment_size: +(\d+)", text)
        assert kernarg is not None
        assert int(kernarg[1]) == 8 * len(kernel_.parameters)


def test_amd_objects_are_decoded_by_llvm(amd, tmp_path):
    """An independent reader finds no byte that it cannot name, and the descriptor we promise."""
    objdump = shutil.which("llvm-objdump-22") or shutil.which("llvm-objdump-19")
    if objdump is None:
        pytest.skip("no llvm-objdump that knows gfx12")
    for kernel_, static in KERNELS:
        file = tmp_path / f"{_name(kernel_, static)}.o"
        program = compile_kernel(kernel_, Target.named(amd), **static)
        file.write_bytes(program.code)
        told = subprocess.run(
            [objdump, "-d", f"--mcpu={amd}", str(file)], capture_output=True, text=True, check=True
        )
        assert not told.stderr
        assert "s_endpgm" in told.stdout
        assert "<unknown>" not in told.stdout
        assert "illegal" not in told.stdout
        headers = subprocess.run(
            [objdump, "-h", "-r", "-t", str(file)], capture_output=True, text=True, check=True
        ).stdout
        assert "*UND*" not in headers
        assert f"{kernel_.name}.kd" in headers


def test_nvidia_code(nvidia, assembly):
    for kernel_, static in KERNELS:
        text = assembly(kernel_, nvidia, **static)
        for wanted in EXPECTED[_name(kernel_, static)][1]:
            assert wanted in text, f"{_name(kernel_, static)} lacks {wanted}:\n{text}"
        assert f".reqntid {kernel_.group_size}" in text
        assert ".local" not in text


def test_nvidia_code_is_accepted_by_ptxas(nvidia, tmp_path):
    """All kernels of one chip in one run of the assembler, which also reports spills."""
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        pytest.skip("no ptxas")
    files = []
    for kernel_, static in KERNELS:
        program = compile_kernel(kernel_, Target.named(nvidia), **static)
        file = tmp_path / f"{_name(kernel_, static)}.ptx"
        file.write_bytes(program.code)
        files.append(str(file))
    for file in files:
        told = subprocess.run(
            [ptxas, f"-arch={nvidia}", "-v", file, "-o", f"{file}.cubin"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in told.stderr
