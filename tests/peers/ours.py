"""A model open in exosuit, asked for numbers rather than for text, so that tests can compare them.

    with open_ours(path, sequences=3) as ours:
        logits = ours.score(tokens)                   # after each token
        logits = ours.step([ours.piece(0, tokens)])   # after the last token of each run

Goes through `DeviceRunner`, as the engine does: the facts of a step, its recording, the sampler.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exosuit.driver.cpu import CpuDevice
from exosuit.engine.batch import PAGE_TOKENS, Run, Sampling
from exosuit.engine.runner import DeviceRunner
from exosuit.kernel import ProgramCache, Target
from exosuit.models.decoder import CacheKind
from exosuit.models.gguf import GgufFile
from exosuit.models.model import Limits, Model
from exosuit.ops.programs import Programs

Logits = npt.NDArray[np.float32]
GREEDY = Sampling(temperature=0.0)


class Ours:
    """One open model. Slot s owns its own pages: numbers s, s + sequences, ... of the cache."""

    def __init__(self, file: GgufFile, runner: DeviceRunner) -> None:
        self.file = file
        self.runner = runner
        self.vocabulary = runner.vocabulary

    def pages(self, slot: int, positions: int) -> tuple[int, ...]:
        """Pages for so many positions; never neighbours where there are several sequences."""
        count = -(-positions // PAGE_TOKENS)
        return tuple(slot + k * self.runner.max_sequences for k in range(count))

    def piece(self, slot: int, tokens: Sequence[int], start: int = 0, last: bool = True) -> Run:
        """Tokens of the sequence in `slot`; with `last`, what follows them is wanted."""
        pages = self.pages(slot, start + len(tokens))
        return Run(slot, tuple(tokens), start, pages, GREEDY if last else None)

    def step(self, runs: Sequence[Run]) -> Logits:
        """Logits [wanted, vocabulary] of the runs that want any, in their order.

        What was sampled must be the best of them, at its own log-probability.
        """
        sampled = [x for x in self.runner.run(runs) if x is not None]
        model = self.runner.model
        region = model.step.logits.part(0, 4 * len(sampled) * self.vocabulary)
        logits = model.device.copy_out(region, np.float32).reshape(len(sampled), self.vocabulary)
        for row, found in zip(logits, sampled, strict=True):
            assert found.token == row.argmax()
            assert abs(found.logprob - log_softmax(row)[found.token]) < 1e-3
        return logits

    def follow(self, tokens: Sequence[int], prompt: int, slot: int = 0) -> Logits:
        """Logits after the prompt, and after each later token, fed one at a time.

        prompt   how many of `tokens` are the prompt; it goes in in steps as large as allowed
        returns  f32[tokens - prompt + 1, vocabulary]
        """
        size, found = self.runner.max_step_tokens, list[Logits]()
        for start in range(0, prompt, size):
            end = min(start + size, prompt)
            found += [self.step([self.piece(slot, tokens[start:end], start, last=end == prompt)])]
        for at in range(prompt, len(tokens)):
            found += [self.step([self.piece(slot, tokens[at : at + 1], at)])]
        return np.concatenate(found)

    def generate(
        self, prompt: Sequence[int], count: int, sampling: Sampling, slot: int = 0
    ) -> list[int]:
        """A prompt's continuation, each token fed back; a new sequence in `slot`."""
        self.runner.forget(slot)
        piece, at = tuple(prompt), 0
        found: list[int] = []
        while len(found) < count:
            pages = self.pages(slot, at + len(piece))
            (sampled,) = self.runner.run([Run(slot, piece, at, pages, sampling, len(found))])
            assert sampled is not None
            at += len(piece)
            found.append(sampled.token)
            piece = (sampled.token,)
        return found

    def score(self, tokens: Sequence[int]) -> Logits:
        """Logits after each token."""
        return self.runner.score(tokens)


@contextmanager
def open_ours(
    path: Path,
    *,
    context: int = 1024,
    sequences: int = 1,
    step_tokens: int = 512,
    rows: int = 0,
    pages: int = 0,
    cache_kind: CacheKind = "f16",
    threads: int = 1,
    level: str = "",
) -> Iterator[Ours]:
    """Open a model on the host; `level` as in `Target.host`, the rest as in `Limits`."""
    programs = _programs(level)
    device = CpuDevice(programs.target.name, threads)
    limits = Limits(context, sequences, step_tokens, pages, rows)
    with GgufFile.open(path) as file:
        runner = DeviceRunner(Model.open(file, device, programs, limits, cache_kind))
        try:
            yield Ours(file, runner)
        finally:
            runner.close()
            device.close()


@cache
def _programs(level: str) -> Programs:
    """Compiled once per process; kept on disk between the workers of one test run."""
    folder = Path(tempfile.gettempdir()) / "exosuit-test-programs"
    return Programs(Target.host(level), ProgramCache(folder))


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Log-probabilities along the last axis."""
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))
