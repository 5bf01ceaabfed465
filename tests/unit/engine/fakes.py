"""A language model small enough to be known by heart, and words for its tokens.

`FakeRunner` keeps tokens where a real one keeps keys and values: in pages, by position. What comes
next depends on the whole text as the pages hold it, so a wrong page, position or leftover changes
the answer; and it raises where a text is not what its sequence wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from exosuit.engine.batch import PAGE_TOKENS, Run, Sampled, Sampling
from exosuit.models.tokenizer import StreamDecoder

Choose = Callable[[Sequence[int], Sampling], int]


def toy_choice(vocabulary: int) -> Choose:
    """A choice that depends on every token before it and, above temperature 0, on the seed."""

    def choose(text: Sequence[int], sampling: Sampling) -> int:
        tokens = np.asarray(text, np.uint64) + np.uint64(1)
        places = np.arange(len(text), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = int((tokens * (places | np.uint64(1))).sum())  # wraps, as it should
        mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 % 2**64
        if not sampling.is_greedy:
            mixed = int(np.random.default_rng((mixed, sampling.seed)).integers(2**62))
        return (mixed >> 20) % vocabulary

    return choose


def alone(choose: Choose, prompt: Sequence[int], sampling: Sampling, count: int) -> list[int]:
    """The next `count` tokens, computed without pages or company."""
    text = list(prompt)
    for _ in range(count):
        text.append(choose(text, sampling))
    return text[len(prompt) :]


class FakeRunner:
    def __init__(
        self,
        choose: Choose,
        *,
        vocabulary: int = 50,
        max_sequences: int = 4,
        max_step_tokens: int = 96,
        pages: int = 16,
        context: int = 512,
    ) -> None:
        self.max_sequences = max_sequences
        self.max_step_tokens = max_step_tokens
        self.pages = pages
        self.context = context
        self.vocabulary = vocabulary
        self.steps: list[list[Run]] = []
        self._choose = choose
        self._cells = np.full((pages, PAGE_TOKENS, 2), -1)  # token, position
        self._texts: list[list[int]] = [[] for _ in range(max_sequences)]

    def run(self, runs: Sequence[Run]) -> list[Sampled | None]:
        assert 0 < sum(len(run.tokens) for run in runs) <= self.max_step_tokens
        assert len({run.slot for run in runs}) == len(runs), "a slot twice in a step"
        written: set[int] = set()
        for run in runs:
            written |= self._write(run, written)
        self.steps.append(list(runs))
        return [self._sample(run) for run in runs]

    def forget(self, slot: int, tokens: Sequence[int] = ()) -> None:
        self._texts[slot] = list(tokens)

    def close(self) -> None:
        pass

    def _write(self, run: Run, written: set[int]) -> set[int]:
        text, end = self._texts[run.slot], run.start + len(run.tokens)
        assert run.start == len(text), "a gap or an overlap in the text"
        assert len(run.pages) * PAGE_TOKENS >= end, "no page for a token"
        assert len(set(run.pages)) == len(run.pages), "a page twice in a sequence"
        pages = set(run.pages[run.start // PAGE_TOKENS : (end - 1) // PAGE_TOKENS + 1])
        assert not pages & written, "two sequences write one page"
        text.extend(run.tokens)
        for position in range(run.start, end):
            page, cell = run.pages[position // PAGE_TOKENS], position % PAGE_TOKENS
            self._cells[page, cell] = text[position], position
        return pages

    def _sample(self, run: Run) -> Sampled | None:
        text = self._texts[run.slot]
        held = self._cells[list(run.pages)].reshape(-1, 2)[: len(text)]
        assert held[:, 1].tolist() == list(range(len(text))), "a page out of place"
        assert held[:, 0].tolist() == text, "a page of somebody else"
        if run.sample is None:
            return None
        token = self._choose(held[:, 0].tolist(), run.sample)
        if run.mask is not None:
            bits = np.unpackbits(run.mask.view(np.uint8), bitorder="little")[: self.vocabulary]
            allowed = np.flatnonzero(bits)
            token = int(allowed[token % len(allowed)])
        top = tuple((token + k, -0.5 - k) for k in range(run.sample.top_logprobs))
        return Sampled(token, -0.5, top)


class Words:
    """A tokenizer whose tokens are the given bytes; `ends` end an answer and have no text."""

    def __init__(self, pieces: Sequence[bytes | str], ends: Sequence[int] = ()) -> None:
        self.pieces = [p.encode() if isinstance(p, str) else p for p in pieces]
        self.end_tokens = frozenset(ends)

    def stream(self, special: bool = False, continues: bool = False) -> StreamDecoder:
        assert continues, "an answer goes on from its prompt"
        return StreamDecoder(lambda id: b"" if id in self.end_tokens else self.pieces[id])


class OneOf:
    """A constraint: any of `texts`, each a list of tokens, and then `end`."""

    def __init__(self, texts: Sequence[Sequence[int]], end: int, vocabulary: int = 50) -> None:
        self._left = [list(text) for text in texts]
        self._end = end
        self._vocabulary = vocabulary
        self.is_done = False

    def mask(self) -> NDArray[np.uint32]:
        bits = np.zeros(-(-self._vocabulary // 32) * 32, bool)
        bits[[text[0] if text else self._end for text in self._left]] = True
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token: int) -> None:
        if token == self._end:
            self.is_done = True
            return
        self._left = [text[1:] for text in self._left if text[:1] == [token]]
        assert self._left, f"token {token} was not allowed"


def scripted(answer: Sequence[int], prompt: int) -> Choose:
    """Says `answer` after a prompt of `prompt` tokens."""
    return lambda text, sampling: answer[len(text) - prompt]
