"""Log-probabilities in OpenAI's two shapes: of chat completions and of completions."""

from __future__ import annotations

from collections.abc import Sequence

from exosuit.engine.batch import Sampled
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.fields import Told

_LEAST = -9999.0  # OpenAI's own word for "never", since JSON has no infinity


class TopLogprob(Told):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Told):
    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(Told):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[Sampled]) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_spelt(tokenizer, sampled.token, sampled.logprob).model_dump(),
                top_logprobs=[_spelt(tokenizer, *likely) for likely in sampled.top],
            )
            for sampled in tokens
        ],
        refusal=None,
    )


def text_logprobs(tokenizer: Tokenizer, tokens: Sequence[Sampled], start: int = 0) -> TextLogprobs:
    """`start` is where the first token's text begins."""
    told = TextLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for sampled in tokens:
        text = _text(tokenizer, sampled.token)
        told.tokens.append(text)
        told.token_logprobs.append(_finite(sampled.logprob))
        told.top_logprobs.append({_text(tokenizer, id): _finite(p) for id, p in sampled.top})
        told.text_offset.append(start)
        start += len(text)
    return told


def _spelt(tokenizer: Tokenizer, token: int, logprob: float) -> TopLogprob:
    return TopLogprob(
        token=_text(tokenizer, token),
        logprob=_finite(logprob),
        bytes=list(tokenizer.piece(token, special=True)),
    )


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.piece(token, special=True).decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
