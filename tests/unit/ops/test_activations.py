"""Activations made ready for matrices, against NumPy: bit for bit where nothing is normalised."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.activations import Prologue, arrange, quantise, quantise_reference, tile_order

RNG = np.random.default_rng(7)
NOTHING = np.zeros(1, np.float32)
NO_ROWS = np.zeros(1, np.int32)
LAYOUTS = pytest.mark.parametrize(("block", "sub"), [(32, 32), (256, 32), (256, 16)])


def quantised(run, x, block, sub, tokens, columns=512, prologue=None, weight=NOTHING, **more):
    """The kernel's quants, scales and sums for x f32[tokens, stride], in tiles of `tokens`."""
    groups = more.pop("groups", len(x))
    rows = more.pop("rows", NO_ROWS)
    quants = np.full(groups * columns, 99, np.int8)
    scales = np.full(groups * columns // block, 99, np.float32)
    sums = np.full(groups * columns // sub, 99, np.float32 if "scaled_sums" in more else np.int16)
    run(
        quantise, groups, x, weight, rows, quants, scales, sums, columns=columns,
        stride=x.shape[1], block=block, sub=sub, tokens=tokens,
        prologue=prologue or Prologue(), **more,
    )  # fmt: skip
    return quants, scales, sums


def laid_out(x, block, sub, tokens):
    quants, scales = quantise_reference(x, block)
    sums = quants.reshape(len(x), -1, sub).sum(-1).astype(np.int16)
    pairs = 2 if sub < block else 1
    arrays = (quants, 4), (scales, 1), (sums, pairs)
    return [tile_order(array, tokens, width).reshape(-1) for array, width in arrays]


def assert_same(actual, expected):
    for got, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@LAYOUTS
@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_quantised_as_in_the_reference(run, block, sub, tokens):
    x = RNG.normal(size=(2 * tokens, 512)).astype(np.float32)
    x *= np.float32(10) ** RNG.integers(-6, 6, (2 * tokens, 1)).astype(np.float32)
    assert_same(quantised(run, x, block, sub, tokens), laid_out(x, block, sub, tokens))


@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_sums_times_the_scale(run, tokens):
    x = RNG.normal(size=(2 * tokens, 512)).astype(np.float32)
    got = quantised(run, x, 32, 32, tokens, scaled_sums=True)
    quants, scales, sums = laid_out(x, 32, 32, tokens)
    assert_same(got, (quants, scales, scales * sums))


@LAYOUTS
def test_zeros_extremes_and_ties(run, block, sub):
    """A row of zeros, the largest numbers, a lone spike, and halves that round to even."""
    x = np.zeros((4, 512), np.float32)
    x[1] = np.resize([3e38, -3e38], 512)
    x[2, 300] = -1e-30
    x[3] = np.resize(np.arange(-127, 128) / 2, 512)
    x[3, ::32] = 127  # makes the scale 1: halves are ties
    quants, scales, sums = quantised(run, x, block, sub, 4)
    assert_same((quants, scales, sums), laid_out(x, block, sub, 4))
    by_token = quants.reshape(-1, 4, 4).transpose(1, 0, 2).reshape(4, 512)
    assert not by_token[0].any()
    assert set(by_token[1]) == {127, -127}
    assert by_token[2].tolist() == [-127 if k == 300 else 0 for k in range(512)]
    ties = x[3] % 1 == 0.5
    assert ties.sum() > 200
    assert (by_token[3][ties] % 2 == 0).all()


def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(run):
    x = RNG.normal(size=(4, 512)).astype(np.float32)
    clean = [part.copy() for part in quantised(run, x, 32, 32, 1)]
    for poison in (np.nan, np.inf, -np.inf):
        x[2, 5] = poison
        got = quantised(run, x, 32, 32, 1)
        scales = got[1].reshape(4, -1)
        assert not np.isfinite(scales[2, 0])
        assert np.isfinite(scales[2, 1:]).all()
        for actual, expected in zip(got, clean, strict=True):
            for token in (0, 1, 3):
                width = len(actual) // 4
                lines = slice(token * width, (token + 1) * width)
                np.testing.assert_array_equal(actual[lines], expected[lines])


@LAYOUTS
def test_only_the_wanted_columns_of_wider_rows(run, block, sub):
    wide = RNG.normal(size=(4, 700)).astype(np.float32)
    expected = laid_out(np.ascontiguousarray(wide[:, :512]), block, sub, 4)
    assert_same(quantised(run, wide, block, sub, 4), expected)


@LAYOUTS
def test_normalised_first(run, block, sub):
    """The norm may differ in its last bits, so a quant may by one where it was almost a tie."""
    x, weight = RNG.normal(size=(4, 512)).astype(np.float32) * 9, RNG.normal(size=512)
    weight = weight.astype(np.float32)
    prologue = Prologue(rms_epsilon=1e-5)
    quants, scales, sums = quantised(run, x, block, sub, 1, prologue=prologue, weight=weight)
    wide = x.astype(np.float64)
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    steps = scales.repeat(block).reshape(4, 512)
    assert (np.abs(quants.reshape(4, 512) * steps - normed) <= (0.5 + 1e-4) * steps).all()
    np.testing.assert_allclose(
        scales, np.abs(normed).reshape(-1, block).max(-1) / 127, rtol=1e-6, atol=0
    )
    np.testing.assert_array_equal(sums, quants.reshape(-1, sub).astype(np.int16).sum(-1))


def test_lines_by_choice(run):
    """With two choices for each token, line i is token rows[i] // 2; -1 leaves a line alone."""
    x = RNG.normal(size=(3, 512)).astype(np.float32)
    rows = np.array([5, -1, 0, 2, -1, 3, 4, 1], np.int32)
    got = quantised(run, x, 256, 32, 4, groups=8, rows=rows, choices=2)
    expected = laid_out(x[np.maximum(rows, 0) // 2], 256, 32, 4)
    for actual, wanted, width in zip(got, expected, (4, 1, 2), strict=True):
        by_line = [part.reshape(2, -1, 4, width) for part in (actual, wanted)]
        for line, row in enumerate(rows):
            place = (line // 4, slice(None), line % 4)
            if row < 0:
                assert (by_line[0][place] == 99).all()
            else:
                np.testing.assert_array_equal(by_line[0][place], by_line[1][place])


# Only arranged ---------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [8, 61, 512])
@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_arranged_bit_for_bit(run, columns, tokens):
    x = RNG.normal(size=(2 * tokens, columns + 3)).astype(np.float32)
    out = np.zeros(2 * tokens * columns, np.float32)
    run(
        arrange, 2 * tokens, x, NOTHING, NO_ROWS, out, columns=columns, stride=columns + 3,
        tokens=tokens, prologue=Prologue(),
    )  # fmt: skip
    expected = tile_order(np.ascontiguousarray(x[:, :columns]), tokens, 1)
    np.testing.assert_array_equal(out, expected.reshape(-1))


@pytest.mark.parametrize("columns", [5, 61, 512])
def test_arranged_and_normalised(run, check, columns):
    x, weight = RNG.normal(size=(4, columns)), RNG.normal(size=columns)
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    out = np.zeros((columns, 4), np.float32)
    run(
        arrange, 4, x, weight, NO_ROWS, out, columns=columns, stride=columns, tokens=4,
        prologue=Prologue(rms_epsilon=1e-6),
    )  # fmt: skip
    wide = x.astype(np.float64)
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * weight
    check(out.T, normed, 1e-6)


def test_arranged_by_choice(run):
    x = RNG.normal(size=(2, 24)).astype(np.float32)
    rows = np.array([3, -1, 0, 1], np.int32)
    out = np.full((4, 24), 99, np.float32)
    run(
        arrange, 4, x, NOTHING, rows, out, columns=24, stride=24, tokens=1,
        prologue=Prologue(), choices=2,
    )  # fmt: skip
    np.testing.assert_array_equal(out, np.stack([x[1], np.full(24, 99), x[0], x[0]]))


def test_tile_order_pads_with_zeros():
    values = np.arange(1, 13).reshape(3, 4)
    ordered = tile_order(values, 2, 2)
    assert ordered.shape == (2, 2, 2, 2)
    assert ordered.tolist() == [
        [[[1, 2], [5, 6]], [[3, 4], [7, 8]]],
        [[[9, 10], [0, 0]], [[11, 12], [0, 0]]],
    ]
