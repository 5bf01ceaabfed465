"""Attention over spans and pooling, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.encoding import attend_span, attend_span_reference, mean_of_span, turn_keys

RNG = np.random.default_rng(5)


def _spans(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots of all tokens, with two of padding at the end, and the spans."""
    spans = np.zeros((len(counts), 4), np.int32)
    spans[:, 1] = counts
    spans[1:, 0] = np.cumsum(counts)[:-1]
    slots = np.concatenate([np.full(n, slot) for slot, n in enumerate(counts)] + [[-1, -1]])
    return slots.astype(np.int32), spans


@pytest.mark.parametrize("counts", [(1,), (3, 1, 17), (64, 33), (130,)])
@pytest.mark.parametrize(("heads", "head_dim"), [(12, 32), (2, 64), (3, 20)])
def test_attention_stays_within_its_span(run, check, counts, heads, head_dim):
    slots, spans = _spans(*counts)
    tokens, width = len(slots), heads * head_dim
    qkv = RNG.normal(size=(tokens, 3 * width)).astype(np.float32)
    keys = np.zeros((width, tokens), np.float32)
    run(turn_keys, width, qkv, keys, tokens, width=width)
    np.testing.assert_array_equal(keys, qkv[:, width : 2 * width].T)
    out = np.zeros((tokens, width), np.float32)
    run(
        attend_span, tokens * heads, qkv, keys, slots, spans, out, tokens,
        heads=heads, head_dim=head_dim, longest=160,
    )  # fmt: skip
    check(out, attend_span_reference(qkv, spans, heads, head_dim), 2e-6)


def test_scores_that_a_plain_exponential_could_not_hold(run, check):
    slots, spans = _spans(9)
    qkv = RNG.normal(size=(11, 3 * 16)).astype(np.float32) * 40
    keys = np.ascontiguousarray(qkv[:, 16:32].T)
    out = np.zeros((11, 16), np.float32)
    run(attend_span, 11, qkv, keys, slots, spans, out, 11, heads=1, head_dim=16, longest=16)
    check(out, attend_span_reference(qkv, spans, 1, 16), 1e-5)


@pytest.mark.parametrize("width", [1, 20, 384])
def test_the_mean_of_each_span(run, check, width):
    _, spans = _spans(5, 1, 0, 12)
    x = RNG.normal(size=(18, width)).astype(np.float32)
    out = np.full((4, width), 7, np.float32)
    run(mean_of_span, 4, x, spans, out, width=width)
    expected = np.full((4, width), 7.0)
    for row, (first, count, *_) in enumerate(spans):
        if count:
            expected[row] = x[first : first + count].astype(np.float64).mean(0)
    check(out, expected, 1e-6)
