"""What the answers of Ollama's two generating endpoints share: times, counts, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from exosuit.engine.batch import Sampled
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.answer import Call, Finish
from exosuit.serve.exchange import Exchange
from exosuit.serve.fields import Told
from exosuit.serve.openai.logprobs import chat_logprobs
from exosuit.serve.problems import Problem
from exosuit.serve.sending import ndjson

NDJSON = "application/x-ndjson"


class TopLogprob(Told):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Answered(Told):
    """Times are in nanoseconds. The last line of a stream has them, as has a whole answer."""

    model: str
    created_at: str
    done: bool
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[Logprob] | None = None


def stamp(seconds: float | None = None) -> str:
    """RFC 3339, now or a time of the epoch."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def told(problem: Problem) -> bytes:
    """An error in the middle of a stream."""
    return ndjson({"error": problem.message})


def ended(exchange: Exchange, finish: Finish) -> dict[str, Any]:
    """The last line's further fields."""
    generation = exchange.answers[0].generation
    first, last = generation.first_token_s, generation.last_token_s
    return {
        "done": True,
        "done_reason": "length" if finish == "length" else "stop",
        "total_duration": _ns(exchange.elapsed_s()),
        "load_duration": _ns(exchange.load_s),
        "prompt_eval_count": exchange.prompt_tokens,
        "prompt_eval_duration": _ns(first - generation.submitted_s if first else 0),
        "eval_count": exchange.completion_tokens,
        "eval_duration": _ns(last - first if first and last else 0),
    }


def logprobs(tokenizer: Tokenizer, tokens: Sequence[Sampled]) -> list[dict[str, Any]]:
    return [entry.model_dump() for entry in chat_logprobs(tokenizer, tokens).content]


def called(call: Call, position: int) -> dict[str, Any] | None:
    """A call with its arguments as an object, as this dialect has them; None if they are none."""
    arguments = call.as_object()
    if arguments is None:
        return None
    function: dict[str, Any] = {"index": position, "name": call.name, "arguments": arguments}
    return {"function": function} if call.id is None else {"id": call.id, "function": function}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
