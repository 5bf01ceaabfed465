"""Packing, activations, products and embedding of GPUs on gfx1100 machine code.

Each format's kernel against float64, from the file's bytes on: packed by the device's kernel, which
is compared with NumPy's permutation by itself.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.ops.weights import ALL_FORMATS, block_of, expand, filled_rows, random_rows

from exosuit.ops.activations import Prologue, quantise_reference, tile_order
from exosuit.ops.blocks import LANE_ROWS, Field
from exosuit.ops.embedding import embed
from exosuit.ops.epilogues import Epilogue, GatedEpilogue
from exosuit.ops.formats import FORMATS
from exosuit.ops.gpu.activations import arrange_gpu, quantise_gpu
from exosuit.ops.gpu.matmul_float import padded_columns
from exosuit.ops.gpu.matmul_tiles import matmul_experts_tiles, matmul_tiles
from exosuit.ops.gpu.pack import pack_gpu, pack_gpu_reference
from exosuit.ops.matmul import Tile, matmul, matmul_experts
from exosuit.ops.matmul_float import FLOAT_FORMATS, FloatFormat, matmul_experts_float, matmul_float

COLUMNS = 512
NOTHING = np.zeros(16, np.float32)
FORMAT = pytest.mark.parametrize("format", FORMATS.values(), ids=str)
EVERY = pytest.mark.parametrize("format", ALL_FORMATS.values(), ids=str)


def laid_out(format):
    """Fields and bytes of what is packed as one block."""
    if isinstance(format, FloatFormat):
        return (Field(0, 16, format.bytes),), 16
    return format.fields, format.block_bytes


def packed(format, raw):
    fields, block_bytes = laid_out(format)
    return pack_gpu_reference(raw, fields, block_bytes).reshape(-1)


def packed_pairs(format, gates, values):
    panels = -(-gates.shape[0] // LANE_ROWS)
    both = [packed(format, raw).reshape(panels, -1) for raw in (gates, values)]
    return np.stack(both, axis=1).reshape(-1)


def prepared(format, x, tokens):
    """What a product takes for tiles of `tokens`, and the values that this stands for."""
    if isinstance(format, FloatFormat):
        padded = np.pad(x, ((0, 0), (0, padded_columns(x.shape[1], format) - x.shape[1])))
        return (tile_order(padded, tokens, 1),), x.astype(np.float64)
    quants, scales = quantise_reference(x, format.block)
    sums = quants.reshape(len(x), -1, format.sub).sum(-1)
    sums = sums.astype(np.float32 if format.has_minimum else np.int32).view(np.uint32)
    values = quants.reshape(*scales.shape, -1) * scales[..., None].astype(np.float64)
    return (
        tile_order(quants, tokens, 4), tile_order(scales, tokens, 1), tile_order(sums, tokens, 1)
    ), values.reshape(x.shape)  # fmt: skip


def activations(tokens, columns=COLUMNS):
    x = np.random.default_rng(tokens).normal(size=(tokens, columns)).astype(np.float32)
    return x * np.linspace(0.1, 30, tokens, dtype=np.float32)[:, None]


def multiply(run, format, weights, x, tile, rows, epilogue=None, out=None, extra=NOTHING, stride=0):
    epilogue = epilogue or Epilogue()
    stride = stride or epilogue.width(rows)
    inputs, values = prepared(format, x, tile.tokens)
    tiles = -(-len(x) // tile.tokens)
    out = np.zeros((tiles * tile.tokens, stride), np.float32) if out is None else out
    _, block_bytes = laid_out(format)
    columns = x.shape[1]
    size = -(-columns * block_of(format)[1] // (block_of(format)[0] * block_bytes)) * block_bytes
    panels = weights.size // (size * LANE_ROWS)
    kernel = matmul_float if isinstance(format, FloatFormat) else matmul
    run(
        kernel, panels // tile.groups, weights, *inputs, extra, out, tiles, rows=rows,
        columns=columns, stride=stride, format=format, tile=tile, epilogue=epilogue,
    )  # fmt: skip
    return out[: len(x)], values


# Packing --------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("rows", [1, 32, 71])
def test_any_bytes(run, format, rows):
    fields, block_bytes = laid_out(format)
    raw = np.random.default_rng(rows).integers(0, 256, (rows, 5 * block_bytes), np.uint8)
    groups = -(-rows // LANE_ROWS)
    out = np.zeros(groups * LANE_ROWS * raw.shape[1], np.uint8)
    run(pack_gpu, groups, raw, out, rows, 5, 1, 0, fields=fields, block_bytes=block_bytes)
    np.testing.assert_array_equal(out, packed(format, raw))


@EVERY
def test_the_reference_moves_every_bit_and_adds_none(format):
    fields, block_bytes = laid_out(format)
    bits = np.arange(block_bytes * 8)
    raw = np.zeros((LANE_ROWS * len(bits), block_bytes), np.uint8)
    rows = bits % LANE_ROWS + LANE_ROWS * bits
    raw[rows, bits // 8] = 1 << (bits % 8)
    panels = np.unpackbits(
        pack_gpu_reference(raw, fields, block_bytes).reshape(len(bits), -1), axis=1
    )
    assert (panels.sum(axis=1) == 1).all()
    assert len(set(panels.argmax(axis=1) - bits % LANE_ROWS)) > len(bits) // 2


@pytest.mark.parametrize("name", FLOAT_FORMATS)
@pytest.mark.parametrize("columns", [1, 13, 20])
def test_rows_of_floats_are_filled_with_zeros(run, name, columns):
    format = FLOAT_FORMATS[name]
    fields, block_bytes = laid_out(format)
    raw = random_rows(format, 35, columns)
    blocks, tail = -(-raw.shape[1] // 16), raw.shape[1] % 16
    out = np.full(2 * LANE_ROWS * 16 * blocks, 0xAA, np.uint8)
    run(pack_gpu, 2, raw, out, 35, blocks, 1, 0, fields=fields, block_bytes=block_bytes, tail=tail)
    np.testing.assert_array_equal(out, packed(format, raw))


def test_two_matrices_interleaved(run):
    format = FORMATS["Q4_K"]
    gates, values = random_rows(format, 41, 512), random_rows(format, 41, 512) ^ 0x55
    out = np.zeros(4 * LANE_ROWS * gates.shape[1], np.uint8)
    for which, raw in enumerate((gates, values)):
        static = {"fields": format.fields, "block_bytes": format.block_bytes}
        run(pack_gpu, 2, raw, out, 41, 2, 2, which, **static)
    np.testing.assert_array_equal(out, packed_pairs(format, gates, values))


# Activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "sub"), [(32, 32), (256, 32), (256, 16)])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("columns", [512, 2304])
def test_quantised_as_in_the_reference(run, block, sub, tokens, columns):
    x = activations(6, columns)
    x[1] = 0
    x[2, :40] = np.nan
    padded = -(-len(x) // tokens) * tokens
    quants = np.zeros(padded * columns, np.int8)
    scales = np.zeros(padded * columns // block, np.float32)
    sums = np.zeros(padded * columns // sub, np.uint32)
    run(
        quantise_gpu, len(x), x, NOTHING, np.zeros(1, np.int32), quants, scales, sums,
        columns=columns, stride=columns, block=block, sub=sub, tokens=tokens, prologue=Prologue(),
    )  # fmt: skip
    good = [0, 1, 3, 4, 5]
    expected, expected_scales = quantise_reference(x[good], block)
    own = quants.reshape(-1, columns // 4, tokens, 4).swapaxes(1, 2).reshape(padded, columns)[good]
    # The reciprocal of a scale may be rounded otherwise on a GPU: then a tie falls otherwise.
    assert np.abs(own.astype(int) - expected).max() <= 1
    assert (own != expected).mean() < 1e-3
    by_token = scales.reshape(-1, columns // block, tokens).swapaxes(1, 2).reshape(padded, -1)
    np.testing.assert_allclose(by_token[good], expected_scales, rtol=1e-7)
    assert np.isnan(by_token[2, 0])
    own_sums = sums.view(np.int32).reshape(-1, columns // sub, tokens).swapaxes(1, 2)
    np.testing.assert_array_equal(
        own_sums.reshape(padded, -1)[good], own.reshape(len(good), -1, sub).astype(int).sum(-1)
    )


def test_normalised_first(run, check):
    columns = 2304
    x, weight = activations(3, columns), np.linspace(-1, 2, columns, dtype=np.float32)
    out = np.full((3, columns + 8), 7, np.float32)
    run(
        arrange_gpu, 3, x, weight, np.zeros(1, np.int32), out, columns=columns,
        padded=columns + 8, stride=columns, tokens=1, prologue=Prologue(1e-5),
    )  # fmt: skip
    wide = x.astype(np.float64)
    scale = 1 / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
    check(out[:, :columns], wide * scale * weight, 1e-6)
    assert not out[:, columns:].any()


# Products -------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("tokens", [1, 4, 16])
def test_odd_number_of_rows(run, check, format, tokens):
    raw = random_rows(format, 53, COLUMNS)
    x = activations(tokens + 1 if tokens == 4 else tokens)
    out, values = multiply(run, format, packed(format, raw), x, Tile(tokens, 1), 53)
    check(out, values @ expand(format, raw).T.astype(np.float64), 1e-6)


@FORMAT
@pytest.mark.parametrize(("tokens", "columns"), [(32, 512), (16, 2304)])
def test_by_the_matrix_unit(run, check, format, tokens, columns):
    """Integers within a block, so the same tolerance; more panels than one workgroup has waves."""
    rows = 149
    raw = random_rows(format, rows, columns)
    x = activations(2 * tokens, columns)
    inputs, values = prepared(format, x, 1)
    out = np.zeros((2 * tokens, rows), np.float32)
    run(
        matmul_tiles, 2 * 2, packed(format, raw), *inputs, NOTHING, out, 2, rows=rows,
        columns=columns, stride=rows, format=format, tile=Tile(tokens, 1), epilogue=Epilogue(),
    )  # fmt: skip
    check(out, values @ expand(format, raw).T.astype(np.float64), 1e-6)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_experts_by_the_matrix_unit(run, check, name):
    """Gate and value, with a bias-free activation, each tile its own matrix."""
    format, width = FORMATS[name], 64
    raw = random_rows(format, 4 * width, COLUMNS).reshape(2, 2, width, -1)
    weights = np.concatenate([packed_pairs(format, *pair) for pair in raw])
    experts = np.array([1, -1, 0], np.int32)
    inputs, x = prepared(format, activations(48) * np.float32(0.02), 1)
    out = np.full((48, width), -7, np.float32)
    run(
        matmul_experts_tiles, 3, weights, experts, *inputs, out, rows=2 * width, columns=COLUMNS,
        format=format, tile=Tile(16, 2), epilogue=GatedEpilogue(),
    )  # fmt: skip
    for t, expert in enumerate(experts):
        lines = slice(16 * t, 16 * t + 16)
        if expert < 0:
            assert (out[lines] == -7).all()
            continue
        gate, value = (x[lines] @ expand(format, p).T.astype(np.float64) for p in raw[expert])
        check(out[lines], gate / 2 * (1 + np.tanh(gate / 2)) * value, 2e-6)


@pytest.mark.parametrize("name", ["Q6_K", "Q8_0", "F16"])
def test_many_columns(run, check, name):
    """More blocks than waves, and not a multiple of them."""
    format = ALL_FORMATS[name]
    raw = random_rows(format, 32, 2816)
    out, values = multiply(run, format, packed(format, raw), activations(2, 2816), Tile(2, 1), 32)
    check(out, values @ expand(format, raw).T.astype(np.float64), 1e-6)


@pytest.mark.parametrize("name", FLOAT_FORMATS)
@pytest.mark.parametrize("columns", [13, 100])
def test_floats_of_any_width(run, check, name, columns):
    format = FLOAT_FORMATS[name]
    raw = random_rows(format, 40, columns)
    x = activations(3, columns)
    out, values = multiply(run, format, packed(format, raw), x, Tile(4, 1), 40)
    check(out, values @ expand(format, raw).T.astype(np.float64), 1e-6)


@FORMAT
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x77])
def test_extremes_do_not_saturate(run, format, byte):
    raw = filled_rows(format, 8, COLUMNS, byte)
    one = np.ones(COLUMNS, np.float32)
    signs = np.random.default_rng(byte).choice((-1, 1), COLUMNS)
    x = np.stack([one, -one, one * np.resize((1, -1), COLUMNS), one * signs]).astype(np.float32)
    out, values = multiply(run, format, packed(format, raw), x, Tile(4, 1), 8)
    weights = expand(format, raw).astype(np.float64)
    whole = np.abs(values) @ np.abs(weights).T
    assert (np.abs(out - values @ weights.T) <= 1e-6 * np.maximum(whole, 1e-30)).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "F16"])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gated(run, check, name, activation):
    format, width = ALL_FORMATS[name], 45
    gates, values = random_rows(format, width, COLUMNS), random_rows(format, width, COLUMNS)[::-1]
    x = activations(4) * np.float32(0.1)
    out, x = multiply(
        run, format, packed_pairs(format, gates, values), x, Tile(4, 2), 2 * width,
        GatedEpilogue(activation=activation),
    )  # fmt: skip
    gate, value = (x @ expand(format, raw).T.astype(np.float64) for raw in (gates, values))
    if activation == "silu":
        gate = gate / 2 * (1 + np.tanh(gate / 2))
    else:
        gate = gate / 2 * (1 + np.tanh(0.79788456080286535588 * (gate + 0.044715 * gate**3)))
    check(out, gate * value, 2e-6)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("accumulate", [False, True], ids=["", "accumulate"])
def test_bias_accumulation_and_stride(run, check, bias, accumulate):
    format, rng, rows = FORMATS["Q5_1"], np.random.default_rng(3), 37
    raw = random_rows(format, rows, COLUMNS)
    before = rng.normal(size=(8, rows + 5)).astype(np.float32)
    extra = rng.normal(size=rows).astype(np.float32)
    out, x = multiply(
        run, format, packed(format, raw), activations(8), Tile(8, 1), rows,
        Epilogue(bias, accumulate), before.copy(), extra, rows + 5,
    )  # fmt: skip
    expected = x @ expand(format, raw).T.astype(np.float64) + bias * extra
    check(out[:, :rows], expected + accumulate * before[:, :rows], 1e-6)
    np.testing.assert_array_equal(out[:, rows:], before[:, rows:])


@pytest.mark.parametrize("name", ["Q4_K", "MXFP4", "BF16"])
def test_each_tile_its_expert(run, check, name):
    format, rows, tile = ALL_FORMATS[name], 64, Tile(4, 2)
    raw = random_rows(format, 3 * rows, COLUMNS).reshape(3, rows, -1)
    weights = np.concatenate([packed(format, one) for one in raw])
    experts = np.array([2, -1, 0, 1, -1], np.int32)
    inputs, x = prepared(format, activations(20), 4)
    out = np.full((20, rows), -7, np.float32)
    is_float = isinstance(format, FloatFormat)
    run(
        matmul_experts_float if is_float else matmul_experts, 5, weights, experts, *inputs, out,
        rows=rows, columns=COLUMNS, format=format, tile=tile, epilogue=Epilogue(),
    )  # fmt: skip
    for t, expert in enumerate(experts):
        lines = slice(4 * t, 4 * t + 4)
        if expert < 0:
            assert (out[lines] == -7).all()
        else:
            check(out[lines], x[lines] @ expand(format, raw[expert]).T.astype(np.float64), 1e-6)


# Embedding ------------------------------------------------------------------------------------


@EVERY
def test_rows_of_the_embedding(run, check, format):
    raw = random_rows(format, 70, COLUMNS)
    ids = np.array([0, 69, 33, 33], np.int32)
    out = np.zeros((4, COLUMNS), np.float32)
    run(embed, 4, packed(format, raw), ids, out, columns=COLUMNS, format=format, factor=1.5)
    check(out, expand(format, raw)[ids].astype(np.float64) * 1.5, 3e-7)
