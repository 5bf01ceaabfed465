"""Sampling: the very token of the float64 reference, exact filters, and the drawn distribution."""

from __future__ import annotations

import numpy as np
import pytest

from exosuit.ops.argmax import argmax, argmax_parts
from exosuit.ops.bits import uniform_reference
from exosuit.ops.sampling import (
    SAMPLER,
    padded,
    sample,
    sample_reference,
    sampler_row,
    top_log_probabilities,
)

RNG = np.random.default_rng(4)
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Batch:
    """Rows of logits with their samplers, and what `sample` makes of them."""

    def __init__(self, logits, samplers, counts=None, biases=None, positions=None):
        rows, vocabulary = logits.shape
        self.logits = logits
        self.samplers = np.array(samplers, SAMPLER)
        slots = int(self.samplers["slot"].max()) + 1
        self.counts = np.zeros((slots, vocabulary), np.uint16) if counts is None else counts
        self.biases = biases or {}
        self.positions = np.arange(rows, dtype=np.int32) if positions is None else positions
        self.ids = np.full(rows, -7, np.int32)
        self.tokens = np.full(rows, -7, np.int32)
        self.log_probabilities = np.full(rows, np.nan, np.float32)

    def run(self, run):
        rows, vocabulary = self.logits.shape
        self.expected = [self._expected(row) for row in range(rows)]
        bias_tokens = np.full((rows, 3), -1, np.int32)
        bias_values = np.zeros((rows, 3), np.float32)
        for column, (token, bias) in enumerate(self.biases.items()):
            bias_tokens[:, column], bias_values[:, column] = token, bias
        work = np.zeros((rows, 2, padded(vocabulary)), np.float32)
        run(
            sample, rows, self.logits, self.samplers.view(np.uint32), bias_tokens, bias_values,
            self.counts, work, self.ids, self.positions, self.tokens, self.log_probabilities,
            vocabulary=vocabulary, biases=3,
        )  # fmt: skip
        return self

    def _expected(self, row):
        sampler = self.samplers[row]
        return sample_reference(
            self.logits[row], sampler, self.biases, self.counts[max(sampler["slot"], 0)].copy(),
            int(self.positions[row]),
        )  # fmt: skip

    def matches(self):
        """Every row as the reference has it, but for draws within rounding of a border."""
        for row, (token, log_probability, chance) in enumerate(self.expected):
            assert chance[self.tokens[row]] > 0, f"row {row}: token was filtered out"
            borders = chance.cumsum()
            uniform = uniform_reference(
                int(self.samplers[row]["seed"]), int(self.positions[row]) - 1
            )
            if self.tokens[row] == token:
                assert self.log_probabilities[row] == pytest.approx(log_probability, abs=2e-5)
            else:
                assert np.abs(borders - uniform).min() < 1e-5, f"row {row}"
        np.testing.assert_array_equal(self.ids, self.tokens)


def _logits(rows, vocabulary, spread=3.0):
    return (RNG.normal(size=(rows, vocabulary)) * spread).astype(np.float32)


FILTERS = [
    OFF,
    OFF | {"top_k": 5},
    OFF | {"top_k": 40, "temperature": 2.5},
    OFF | {"top_p": 0.9},
    OFF | {"top_p": 0.001},
    OFF | {"top_p": 0.0},
    OFF | {"min_p": 0.05},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    OFF | {"top_k": 10**6, "top_p": 0.5},
    OFF | {"top_k": 300, "top_p": 0.99, "min_p": 0.001},
    OFF | {"temperature": 1e-4},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize(("vocabulary", "spread"), [(37, 3.0), (5000, 3.0), (5000, 0.1), (50, 20)])
def test_the_reference_draws_the_same_token(run, options, vocabulary, spread):
    rows = 24
    samplers = [sampler_row(slot=0, seed=11 * row, **options) for row in range(rows)]
    Batch(_logits(rows, vocabulary, spread), samplers).run(run).matches()


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.5])
def test_more_tokens_near_the_top_than_a_list_holds(run, spread):
    choices = [{"top_k": 6000}, {"top_p": 0.7}, {"top_k": 7}, {"top_k": 40, "top_p": 0.8}]
    samplers = [
        sampler_row(slot=0, seed=row, **(OFF | options)) for row, options in enumerate(choices * 3)
    ]
    Batch(_logits(12, 20001, spread), samplers).run(run).matches()


def _survivors(run, logits, draws=3000, **options):
    """The tokens that are ever drawn from one row of logits, and how often."""
    samplers = [sampler_row(slot=0, seed=9, **(OFF | options))] * draws
    batch = Batch(np.repeat(logits[None], draws, 0), samplers)
    batch.run(run)
    return np.bincount(batch.tokens, minlength=len(logits)) / draws, batch.expected[0][2]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"top_k": 3}, [0, 1, 2]),
        # Chances 0.4, 0.3, 0.2, 0.08, 0.02.
        ({"top_p": 0.69}, [0, 1]),
        ({"top_p": 0.71}, [0, 1, 2]),
        ({"min_p": 0.19}, [0, 1, 2, 3]),
        ({"min_p": 0.21}, [0, 1, 2]),
        # Of the three that are left, 0.4 / 0.9 and 0.3 / 0.9: two reach 0.77.
        ({"top_k": 3, "top_p": 0.77}, [0, 1]),
        ({}, [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_exactly_these_tokens_are_left(run, options, left):
    order = RNG.permutation(30)
    logits = np.full(30, -np.inf, np.float32)
    logits[order[:5]] = np.log([0.4, 0.3, 0.2, 0.08, 0.02])
    found, _ = _survivors(run, logits, draws=1500, **options)
    assert set(np.flatnonzero(found)) == set(order[left])


def test_top_k_reaches_down_to_tokens_far_below_the_top(run):
    logits = np.full(40, -60, np.float32)
    logits[[5, 11, 30, 2]] = [0, -1, -20, -21]
    found, _ = _survivors(run, logits, draws=200, top_k=3, temperature=20.0)
    assert set(np.flatnonzero(found)) == {5, 11, 30}


def test_the_drawn_distribution(run):
    """Chi-squared over 20 tokens, at a temperature that is not 1."""
    draws = 6000
    found, chance = _survivors(run, _logits(1, 20, 1.5)[0], draws, temperature=1.7)
    statistic = (draws * (found - chance) ** 2 / chance).sum()
    assert statistic < 43.8, "19 degrees of freedom exceed this once in a thousand draws"


def test_zero_temperature_and_one_candidate_take_the_likeliest(run):
    logits = _logits(4, 333)
    logits[1, [7, 300]] = 99
    samplers = [sampler_row(slot=0, temperature=0.0)] * 2 + [sampler_row(slot=0, top_k=1)] * 2
    batch = Batch(logits, samplers).run(run)
    np.testing.assert_array_equal(batch.tokens, logits.argmax(1))
    assert batch.tokens[1] == 7
    batch.matches()


def test_penalties_and_bias(run):
    vocabulary = 50
    counts = RNG.integers(0, 3, (2, vocabulary)).astype(np.uint16)
    penalties = {"repetition": 1.3, "presence": 0.4, "frequency": 0.2}
    samplers = [
        sampler_row(slot=row % 2, seed=row, temperature=float(row > 10), **penalties)
        for row in range(20)
    ]
    biases = {3: 4.0, 8: -np.inf, 49: 2.0}
    batch = Batch(_logits(20, vocabulary), samplers, counts, biases).run(run)
    batch.matches()
    assert 8 not in batch.tokens


def test_counts_are_kept_where_asked_and_do_not_wrap(run):
    logits = np.zeros((3, 10), np.float32)
    logits[:, 4] = 50
    counts = np.zeros((3, 10), np.uint16)
    counts[2, 4] = 0xFFFF
    samplers = [sampler_row(slot=k, count=k > 0, temperature=0) for k in range(3)]
    batch = Batch(logits, samplers, counts).run(run)
    assert counts[:, 4].tolist() == [0, 1, 0xFFFF]
    assert counts.sum() == 1 + 0xFFFF
    assert batch.positions.tolist() == [1, 2, 3]


def test_padding_rows_write_nothing(run):
    samplers = [sampler_row(slot=-1), sampler_row(slot=0)]
    batch = Batch(_logits(2, 10), samplers).run(run)
    assert batch.tokens[0] == batch.ids[0] == -7
    assert batch.positions.tolist() == [0, 2]
    assert batch.tokens[1] >= 0


def test_a_nan_is_never_sampled(run):
    logits = _logits(8, 20)
    logits[:, ::2] = np.nan
    samplers = [sampler_row(slot=0, seed=k, **OFF) for k in range(8)]
    batch = Batch(np.nan_to_num(logits, nan=-1e30), samplers)
    batch.run(run).matches()
    spoiled = Batch(logits, samplers)
    spoiled._expected = lambda row: None
    assert spoiled.run(run).tokens.tolist() == batch.tokens.tolist()


def test_seed_and_position_alone_decide(run):
    logits = np.repeat(_logits(1, 2000, 0.5), 6, 0)
    samplers = [
        sampler_row(slot=0, seed=seed, **OFF) for seed in (1, 1, 1, 2, 2**63 + 1, 2**64 - 1)
    ]
    positions = np.array([5, 5, 6, 5, 5, 5], np.int32)
    tokens = Batch(logits, samplers, positions=positions).run(run).tokens.tolist()
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 5


@pytest.mark.parametrize(("vocabulary", "parts"), [(10, 8), (1000, 7), (4096, 16), (5, 1)])
def test_argmax(run, vocabulary, parts):
    logits = RNG.integers(-50, 50, (3, vocabulary)).astype(np.float32)
    logits[2] = -np.inf
    values, parts_tokens = np.zeros((3, parts), np.float32), np.zeros((3, parts), np.int32)
    ids, tokens, positions = np.zeros(3, np.int32), np.zeros(3, np.int32), np.arange(3, dtype="i4")
    run(argmax_parts, 3 * parts, logits, values, parts_tokens, vocabulary=vocabulary, parts=parts)
    run(argmax, 3, values, parts_tokens, ids, positions, tokens, parts=parts)
    assert tokens.tolist() == ids.tolist() == logits.argmax(1).tolist()
    assert positions.tolist() == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 5, 37])
def test_top_log_probabilities(count):
    logits = RNG.integers(-4, 5, 37).astype(np.float32)
    tokens, found = top_log_probabilities(logits, count)
    exact = np.log(np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum())
    np.testing.assert_allclose(found, np.sort(exact)[::-1][:count], atol=1e-12)
    np.testing.assert_allclose(found, exact[tokens], atol=1e-12)
    assert len(set(tokens.tolist())) == count
