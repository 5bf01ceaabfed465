"""What an answer took, in OpenAI's fields, and how fast it was, in those of llama.cpp's server."""

from __future__ import annotations

from importlib.metadata import version

from exosuit.serve.exchange import Exchange
from exosuit.serve.fields import Told

FINGERPRINT = f"exosuit-{version('exosuit')}"


class PromptDetails(Told):
    cached_tokens: int


class CompletionDetails(Told):
    reasoning_tokens: int


class Usage(Told):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(Told):
    """Tokens and milliseconds; rates are tokens a second, null where nothing was measured."""

    cache_n: int
    prompt_n: int
    prompt_ms: float | None
    prompt_per_token_ms: float | None
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float | None
    predicted_per_token_ms: float | None
    predicted_per_second: float | None


def usage_of(exchange: Exchange, thought_tokens: int = 0) -> Usage:
    prompt, completion = exchange.prompt_tokens, exchange.completion_tokens
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=exchange.reused_tokens),
        completion_tokens_details=CompletionDetails(reasoning_tokens=thought_tokens),
    )


def timings_of(exchange: Exchange) -> Timings:
    """Of the first answer."""
    generation = exchange.answers[0].generation
    first, last = generation.first_token_s, generation.last_token_s
    prompt = exchange.prompt_tokens - exchange.reused_tokens
    predicted = len(generation.sampled)
    prompt_ms = None if first is None else (first - generation.submitted_s) * 1000
    predicted_ms = None if first is None or last is None else (last - first) * 1000
    return Timings(
        cache_n=exchange.reused_tokens,
        prompt_n=prompt,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=_share(prompt_ms, prompt),
        prompt_per_second=generation.prefill_tok_s,
        predicted_n=predicted,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=_share(predicted_ms, predicted - 1),
        predicted_per_second=generation.decode_tok_s,
    )


def _share(milliseconds: float | None, count: int) -> float | None:
    return None if milliseconds is None or count <= 0 else milliseconds / count
