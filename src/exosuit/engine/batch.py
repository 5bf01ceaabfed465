"""What the scheduler asks of a device, and what it gets: the values between engine and runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS = 64
"""Positions in one page of the cache."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults are llama.cpp's.

    temperature  0 takes the most likely token
    top_k        only the most likely `top_k`; 0 for all
    last_n       how many past tokens the penalties look at
    logit_bias   token id to what is added to its logit
    top_logprobs how many of the most likely tokens are reported with each one
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    last_n: int = 64
    seed: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    top_logprobs: int = 0

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0.0


class Constraint(Protocol):
    """Which tokens may come next: a grammar, fed with the tokens that were sampled.

    One belongs to one request. The engine asks for the mask before each token and tells what was
    sampled; a mask may be asked for again, when a step is repeated. An ExosuitError of either ends
    that request alone.
    """

    def mask(self) -> NDArray[np.uint32]:
        """`ceil(vocabulary / 32)` words; bit `t % 32` of word `t // 32` allows token t.

        At least one bit is set: an end token, once the text is complete.
        """
        ...

    def accept(self, token: int) -> None:
        """The token was sampled."""
        ...

    @property
    def is_done(self) -> bool:
        """The text is complete and nothing can follow it."""
        ...


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one sequence, to be computed in one step.

    slot    row of the device's page table, below `Runner.max_sequences`
    tokens  their ids
    start   position of the first
    pages   the sequence's pages, enough for every position up to the last of this run
    sample  sample after the last token; None for a piece of a prompt that is not its last
    step    tokens sampled for this sequence before: the generator's counter
    mask    which tokens may be sampled (see `Constraint.mask`); None for all
    """

    slot: int
    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    sample: Sampling | None
    step: int = 0
    mask: NDArray[np.uint32] | None = None


@dataclass(frozen=True)
class Sampled:
    """A token, its log-probability, and the most likely ones as (id, log-probability)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Runner(Protocol):
    """A model on a device, as the engine sees it. Use by one thread."""

    @property
    def max_sequences(self) -> int: ...

    @property
    def max_step_tokens(self) -> int: ...

    @property
    def pages(self) -> int:
        """Pages of the cache, for all sequences together."""
        ...

    @property
    def context(self) -> int:
        """Most positions of one sequence."""
        ...

    @property
    def vocabulary(self) -> int: ...

    def run(self, runs: Sequence[Run]) -> list[Sampled | None]:
        """Compute one step; an entry for each run, None where nothing was to be sampled."""
        ...

    def forget(self, slot: int, tokens: Sequence[int] = ()) -> None:
        """A new sequence takes the slot: what the penalties counted for the last one is void.

        tokens  the new one's beginning, which the cache holds already
        """
        ...

    def close(self) -> None: ...
