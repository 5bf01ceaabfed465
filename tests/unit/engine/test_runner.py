"""Steps on a device: what is fed, what is counted, what is drawn, and that company changes nothing.

On small random models, whose logits are read back after each step, so that every sampled token can
be held against `sample_reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.peers.ours import GREEDY, Ours, log_softmax, open_ours
from tests.peers.random_models import SMALL, write_model

from exosuit.engine.batch import Run, Sampling
from exosuit.errors import RequestError
from exosuit.ops.sampling import sample_reference, sampler_row

TOKENS: list[int] = np.random.default_rng(3).integers(2, 512, 300).tolist()
WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=11)
"""Every token has a chance, so that a draw that differs shows."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_model(folder / "llama-f32.gguf", replace(SMALL["llama"], n_layers=1), "F32")


@pytest.fixture(scope="module")
def opened(path: Path) -> Iterator[Ours]:
    with open_ours(path, sequences=8, context=512) as ours:
        yield ours


@pytest.fixture
def ours(opened: Ours) -> Ours:
    for slot in range(8):
        opened.runner.forget(slot)
    return opened


@pytest.fixture
def uploads(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The step's buffers that were written, by name, from now on."""
    step = ours.runner.model.step
    names = {step.ids.address: "ids", step.samplers.address: "samplers"}
    device = ours.runner.model.device
    written: list[str] = []
    copy_in: Callable[..., None] = device.copy_in

    def noted(region: Any, data: Any) -> None:
        written.append(names.get(region.address, "other"))
        copy_in(region, data)

    monkeypatch.setattr(device, "copy_in", noted)
    return written


def reference(
    ours: Ours, row: int, sampling: Sampling, position: int, past: list[int]
) -> tuple[int, float]:
    """What should have been sampled in the step just made: the token and its log-probability."""
    size = 4 * ours.vocabulary
    region = ours.runner.model.step.logits.part(row * size, size)
    logits = ours.runner.model.device.copy_out(region, np.float32)
    record = sampler_row(
        slot=0, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p,
        min_p=sampling.min_p, repetition=sampling.repetition_penalty,
        presence=sampling.presence_penalty, frequency=sampling.frequency_penalty,
        seed=sampling.seed,
    )  # fmt: skip
    counts = np.bincount(past[-sampling.last_n :], minlength=ours.vocabulary).astype(np.uint16)
    token, logprob, _ = sample_reference(
        logits, record, dict(sampling.logit_bias), counts, position
    )
    return token, logprob


# Feeding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "drawn"])
def test_a_step_that_continues_the_last_writes_nothing(
    ours: Ours, uploads: list[str], sampling: Sampling
) -> None:
    pages = ours.pages(0, 128)
    first, *rest = ours.generate(TOKENS[:5], 40, sampling)
    uploads.clear()
    # The same once more, with pages named from the start, so that nothing changes on the way.
    (sampled,) = ours.runner.run([Run(0, tuple(TOKENS[:5]), 0, pages, sampling)])
    assert uploads
    fed: list[int] = []
    for at in range(5, 44):
        assert sampled is not None
        uploads.clear()
        (sampled,) = ours.runner.run([Run(0, (sampled.token,), at, pages, sampling)])
        assert sampled is not None
        fed.append(sampled.token)
        if at > 5:  # the step after a prompt still tells where its row is
            assert uploads == []
    assert fed == rest
    assert sampled.logprob == pytest.approx(
        log_softmax(ours.score([*TOKENS[:5], first, *rest[:-1]])[-1])[rest[-1]], abs=1e-3
    )


def test_three_sequences_feed_themselves_in_padded_steps(ours: Ours, uploads: list[str]) -> None:
    """Steps of three tokens run in a recording of four; the fourth's slot stays out of it."""
    alone = [ours.generate(TOKENS[10 * k : 10 * k + 7 + k], 20, WARM, slot=k) for k in range(3)]
    prompts = [tuple(TOKENS[10 * k : 10 * k + 7 + k]) for k in range(3)]
    pages = [ours.pages(k, 64) for k in range(3)]
    sampled = ours.runner.run([Run(k, prompts[k], 0, pages[k], WARM) for k in range(3)])
    together = [[s.token for s in sampled if s is not None]]
    for step in range(19):
        uploads.clear()
        runs = [
            Run(k, (together[-1][k],), len(prompts[k]) + step, pages[k], WARM) for k in range(3)
        ]
        sampled = ours.runner.run(runs)
        together.append([s.token for s in sampled if s is not None])
        assert (uploads == []) == (step > 0)
    assert [list(column) for column in zip(*together, strict=True)] == alone


def test_what_was_not_sampled_is_not_answered(ours: Ours) -> None:
    found = ours.runner.run([
        ours.piece(0, TOKENS[:9], last=False), ours.piece(1, TOKENS[:5]), ours.piece(2, TOKENS[:1]),
    ])  # fmt: skip
    assert [x is None for x in found] == [True, False, False]
    expected = ours.score(TOKENS[:5])[[4, 0]].argmax(1).tolist()
    assert [x.token for x in found if x is not None] == expected


# Drawing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 3, 6])
@pytest.mark.parametrize("longer", [1, 2, 5])
def test_company_does_not_change_what_a_seed_draws(ours: Ours, before: int, longer: int) -> None:
    """Beside `before` decoding sequences and a prompt of `longer` tokens, each step another row."""
    alone = ours.generate(TOKENS[:6], 8, WARM, slot=7)
    ours.runner.forget(7)
    for slot in range(before):
        ours.runner.run([ours.piece(slot, TOKENS[slot : slot + 4], last=False)])
    tokens, found = tuple(TOKENS[:6]), list[int]()
    at = 0
    for step in range(8):
        others = [ours.piece(6, TOKENS[:longer])]
        others += [ours.piece(slot, [TOKENS[step]], 4 + step) for slot in range(before)]
        mine = Run(7, tokens, at, ours.pages(7, at + len(tokens)), WARM)
        place = step % (before + 2)
        runs = [*others[:place], mine, *others[place:]]
        sampled = ours.runner.run(runs)[runs.index(mine)]
        assert sampled is not None
        at += len(tokens)
        tokens = (sampled.token,)
        found.append(sampled.token)
    assert found == alone


def test_seeds_draw_differently_and_again_alike(ours: Ours) -> None:
    drawn = [ours.generate(TOKENS[:6], 12, replace(WARM, seed=seed)) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=5),
        Sampling(temperature=0.0, repetition_penalty=1.3),
        Sampling(temperature=0.0, presence_penalty=2.0, frequency_penalty=0.5, last_n=4),
        Sampling(temperature=1.5, top_k=7, repetition_penalty=0.8, seed=9),
        Sampling(temperature=0.0, logit_bias={3: 50.0, 4: -50.0}),
        Sampling(temperature=1.0, top_p=0.5, min_p=0.0, logit_bias={8: 3.0}, seed=2),
    ],
    ids=["default", "repetition", "presence", "reward", "bias", "top-p"],
)
def test_every_token_is_what_the_reference_samples(ours: Ours, sampling: Sampling) -> None:
    past, piece, at = list[int](), tuple(TOKENS[:10]), 0
    seen = set[int]()
    for _ in range(20):
        pages = ours.pages(2, at + len(piece))
        (sampled,) = ours.runner.run([Run(2, piece, at, pages, sampling)])
        assert sampled is not None
        past += piece
        at += len(piece)
        token, logprob = reference(ours, 0, sampling, at - 1, past)
        assert sampled.token == token
        assert sampled.logprob == pytest.approx(logprob, abs=1e-3)
        piece = (token,)
        seen.add(token)
    assert len(seen) > 1 or sampling.logit_bias.get(3) == 50.0


def test_each_row_has_its_own_options(ours: Ours) -> None:
    options = [
        GREEDY,
        Sampling(temperature=0.0, logit_bias={17: 100.0}),
        Sampling(temperature=0.0, logit_bias={18: 100.0, 17: 100.5}),
        Sampling(temperature=0.0, repetition_penalty=5.0),
        replace(WARM, seed=77),
    ]
    runs = [Run(k, tuple(TOKENS[:12]), 0, ours.pages(k, 12), o) for k, o in enumerate(options)]
    for row, sampled in enumerate(ours.runner.run(runs)):
        assert sampled is not None
        assert sampled.token == reference(ours, row, options[row], 11, TOKENS[:12])[0]


def test_the_likeliest_tokens_are_told(ours: Ours) -> None:
    options = replace(WARM, top_logprobs=4)
    runs = [Run(k, tuple(TOKENS[: 5 + k]), 0, ours.pages(k, 9), options) for k in range(3)]
    scores = ours.score(TOKENS[:7])
    for k, sampled in enumerate(ours.runner.run(runs)):
        assert sampled is not None
        expected = log_softmax(scores[4 + k])
        best = np.argsort(-expected)[:4]
        assert [token for token, _ in sampled.top] == best.tolist()
        assert [p for _, p in sampled.top] == pytest.approx(expected[best].tolist(), abs=1e-3)


def test_too_many_biases_are_refused(ours: Ours) -> None:
    sampling = Sampling(logit_bias=dict.fromkeys(range(65), 1.0))
    with pytest.raises(RequestError, match="65 logits"):
        ours.generate(TOKENS[:3], 1, sampling)
    assert ours.generate(TOKENS[:3], 3, GREEDY), "and the next request is answered"


# Masks ------------------------------------------------------------------------------------------


def mask_of(allowed: list[int], vocabulary: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    bits = np.zeros(-(-vocabulary // 32) * 32, bool)
    bits[allowed] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


def test_only_allowed_tokens_are_sampled_and_the_others_rows_stay(ours: Ours) -> None:
    """A masked row beside free ones, in a prompt's step and in steps that continue."""
    free = ours.generate(TOKENS[:5], 6, GREEDY, slot=1)
    scores = ours.score(TOKENS[:5])[-1]
    worst = np.argsort(scores)[:3].tolist()
    mask = mask_of(worst, ours.vocabulary)
    ours.runner.forget(0)
    ours.runner.forget(1)
    last, beside = tuple(TOKENS[:5]), tuple(TOKENS[:5])
    at, together = 0, list[int]()
    sampling = replace(GREEDY, top_logprobs=5)
    for step in range(6):
        pages = [ours.pages(slot, 64) for slot in (0, 1)]
        masked, other = ours.runner.run([
            Run(0, last, at, pages[0], sampling, mask=mask), Run(1, beside, at, pages[1], GREEDY),
        ])  # fmt: skip
        assert masked is not None
        assert other is not None
        assert masked.token in worst
        assert {token for token, _ in masked.top} == set(worst)
        assert np.exp([p for _, p in masked.top]).sum() == pytest.approx(1.0, abs=1e-4)
        if step == 0:
            assert masked.token == max(worst, key=lambda token: scores[token])
        at += len(last)
        last, beside = (masked.token,), (other.token,)
        together.append(other.token)
    assert together == free


@pytest.mark.parametrize("sampling", [WARM, Sampling(seed=3), Sampling(logit_bias={7: 30.0})])
def test_a_mask_holds_whatever_the_sampling_is(ours: Ours, sampling: Sampling) -> None:
    allowed = [5, 300, 511]
    for seed in range(12):
        (sampled,) = ours.runner.run([
            Run(0, tuple(TOKENS[:5]), 0, ours.pages(0, 5), replace(sampling, seed=seed),
                mask=mask_of(allowed, ours.vocabulary)),
        ])  # fmt: skip
        assert sampled is not None
        assert sampled.token in allowed


# Slots and pages --------------------------------------------------------------------------------


def test_a_new_sequence_is_not_penalised_for_the_last_one(ours: Ours) -> None:
    sampling = Sampling(temperature=0.0, repetition_penalty=10.0)
    fresh = ours.generate(TOKENS[:8], 10, sampling, slot=1)
    ours.generate(fresh + TOKENS[:30], 10, sampling, slot=3)
    assert ours.generate(TOKENS[:8], 10, sampling, slot=3) == fresh


def test_a_sequence_that_begins_in_the_cache_is_penalised_for_it(ours: Ours) -> None:
    sampling = Sampling(temperature=0.0, frequency_penalty=3.0)
    whole = ours.generate(TOKENS[:70], 6, sampling, slot=1)
    # Slot 5 takes over the first page of slot 1; only what lies beyond is computed.
    shared, own = ours.pages(1, 64), ours.pages(5, 128)[1:]
    ours.runner.forget(5, TOKENS[:64])
    (sampled,) = ours.runner.run([Run(5, tuple(TOKENS[64:70]), 64, shared + own, sampling)])
    assert sampled is not None
    assert sampled.token == whole[0]
    (sampled,) = ours.runner.run([Run(5, (whole[0],), 70, shared + own, sampling)])
    assert sampled is not None
    assert sampled.token == whole[1]


def test_pages_may_lie_anywhere_and_be_used_again(ours: Ours) -> None:
    """Pages that held something else, in no order: what they held before is not attended."""
    expected = ours.step([ours.piece(0, TOKENS[:200])])
    ours.step([ours.piece(3, TOKENS[100:300])])
    pages = tuple(reversed(ours.pages(3, 200)))
    (sampled,) = ours.runner.run([Run(6, tuple(TOKENS[:200]), 0, pages, GREEDY)])
    assert sampled is not None
    assert sampled.token == expected[0].argmax()
    assert sampled.logprob == pytest.approx(log_softmax(expected[0]).max(), abs=1e-3)


def test_scores_are_the_steps_logits(ours: Ours) -> None:
    """Eight rows at a time, across pages; and a session goes on after it in its own slot."""
    ours.step([ours.piece(2, TOKENS[:20])])
    scores = ours.score(TOKENS[:70])
    # `score` takes the first pages; those of slot 2 from position 64 on are not among them.
    assert scores.shape == (70, ours.vocabulary)
    followed = ours.follow(TOKENS[:70], 60, slot=4)
    np.testing.assert_allclose(scores[59:], followed, atol=2e-3)
