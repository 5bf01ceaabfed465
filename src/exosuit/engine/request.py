"""One request to the engine, its answer as it grows, and what is told of it: values and views."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from exosuit.engine.batch import Constraint, Sampled, Sampling
from exosuit.errors import ExosuitError, RequestError

FinishReason = Literal["stop", "length", "cancelled", "error"]
"""An end token, stop string or complete constraint; as many tokens as allowed or as fit; the asker
left; the engine could not go on."""

MOST_BIASES = 64
"""Logits that a request may bias: a row of `models.step.StepBuffers.bias_tokens`."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    prompt      token ids, at least one
    max_tokens  most tokens of the answer, its end token included; None for as many as fit
    stop        the answer ends before the first of these texts
    constraint  which tokens the answer may be made of; a fresh one for each request
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Event:
    """News of a generation.

    text           what can be shown now; may be empty, and may belong to earlier tokens
    token          the token that was sampled; None if the generation was cancelled
    finish_reason  set on the last event
    """

    text: str
    token: Sampled | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; `reused_tokens` of the prompt were in the cache already."""

    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int


@dataclass
class Generation:
    """A request at work. The engine changes it; whoever asked reads it and takes its events.

    sampled       the answer's tokens, an end token included
    text          the text shown so far; all of it once finished
    context_full  the answer ended because no position was left
    error         why it ended with "error"
    submitted_s, first_token_s, last_token_s  times of the engine's clock
    """

    id: int
    request: Request
    submitted_s: float
    reused_tokens: int = 0
    sampled: list[Sampled] = field(default_factory=list[Sampled])
    text: str = ""
    finish_reason: FinishReason | None = None
    context_full: bool = False
    error: ExosuitError | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    _events: deque[Event] = field(default_factory=deque[Event], repr=False)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def tokens(self) -> list[int]:
        return [token.token for token in self.sampled]

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.reused_tokens, len(self.sampled))

    @property
    def prefill_tok_s(self) -> float | None:
        """Prompt tokens that were computed, per second up to the first token of the answer."""
        if self.first_token_s is None or self.first_token_s <= self.submitted_s:
            return None
        computed = len(self.request.prompt) - self.reused_tokens
        return computed / (self.first_token_s - self.submitted_s)

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens per second after the first."""
        first, last = self.first_token_s, self.last_token_s
        if first is None or last is None or last <= first:
            return None
        return (len(self.sampled) - 1) / (last - first)

    def tell(self, event: Event) -> None:
        """The engine's: add an event, and what it says to the answer."""
        if event.token is not None:
            self.sampled.append(event.token)
        self.text += event.text
        self.finish_reason = event.finish_reason
        self._events.append(event)

    def take(self) -> list[Event]:
        """The events since the last call, each exactly once."""
        events = list(self._events)
        self._events.clear()
        return events


def check(request: Request, vocabulary: int) -> None:
    """RequestError for what no engine could do, in the words of the request's fields."""
    sampling = request.sampling
    numbers = (
        sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty,
        sampling.presence_penalty, sampling.frequency_penalty, *sampling.logit_bias.values(),
    )  # fmt: skip
    tokens = (*request.prompt, *sampling.logit_bias)
    for wrong, what, rule in (
        (not request.prompt, "the prompt is empty", "an answer continues at least one token"),
        (
            any(not 0 <= token < vocabulary for token in tokens),
            "a token of the request is not in the model's vocabulary",
            f"ids are 0 to {vocabulary - 1}",
        ),
        (
            request.max_tokens is not None and request.max_tokens < 1,
            f"max_tokens is {request.max_tokens}",
            "an answer has at least one token",
        ),
        (not all(request.stop), "a stop string is empty", "it would end every answer at once"),
        (
            not all(map(math.isfinite, numbers)),
            "a sampling parameter is no finite number",
            "temperature, penalties and biases are ordinary numbers",
        ),
        (sampling.temperature < 0, f"temperature is {sampling.temperature}", "it is 0 or more"),
        (sampling.top_k < 0, f"top_k is {sampling.top_k}", "it is 0 (all tokens) or more"),
        (not 0 <= sampling.top_p <= 1, f"top_p is {sampling.top_p}", "it is between 0 and 1"),
        (not 0 <= sampling.min_p <= 1, f"min_p is {sampling.min_p}", "it is between 0 and 1"),
        (
            sampling.repetition_penalty <= 0,
            f"repetition_penalty is {sampling.repetition_penalty}",
            "it is above 0; 1 means none",
        ),
        (sampling.last_n < 1, f"last_n is {sampling.last_n}", "penalties look at 1 token or more"),
        (
            not 0 <= sampling.top_logprobs <= vocabulary,
            f"top_logprobs is {sampling.top_logprobs}",
            f"it is 0 to {vocabulary}, the size of the vocabulary",
        ),
        (
            len(sampling.logit_bias) > MOST_BIASES,
            f"{len(sampling.logit_bias)} logits are biased",
            f"a request may bias {MOST_BIASES}",
        ),
    ):
        if wrong:
            raise RequestError(what, cause=rule, next="change the request and send it again")
