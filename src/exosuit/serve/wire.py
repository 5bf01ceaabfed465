"""Requests, events and errors as JSON, between this user's tools and the server.

Both sides are exosuit, perhaps of different versions: what is not known is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from exosuit.engine.batch import Sampled, Sampling
from exosuit.engine.request import Event, Generation, Request
from exosuit.errors import ExosuitError

Words = dict[str, Any]


def request_words(request: Request) -> Words:
    sampling = asdict(request.sampling)
    sampling["logit_bias"] = list(request.sampling.logit_bias.items())
    return {
        "prompt": list(request.prompt),
        "sampling": sampling,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
    }


def request_from(words: Words) -> Request:
    known = {field.name for field in fields(Sampling)}
    sampling = {key: value for key, value in words["sampling"].items() if key in known}
    sampling["logit_bias"] = {int(token): float(bias) for token, bias in sampling["logit_bias"]}
    return Request(
        tuple(int(token) for token in words["prompt"]),
        Sampling(**sampling),
        words["max_tokens"],
        tuple(words["stop"]),
    )


def event_words(event: Event) -> Words:
    token = event.token
    return {
        "text": event.text,
        "token": None if token is None else [token.token, token.logprob, list(token.top)],
        "finish_reason": event.finish_reason,
    }


def end_words(generation: Generation) -> Words:
    """What the events do not say; times are seconds after the request."""

    def after(moment: float | None) -> float | None:
        return None if moment is None else moment - generation.submitted_s

    return {
        "reused_tokens": generation.reused_tokens,
        "context_full": generation.context_full,
        "first_token_s": after(generation.first_token_s),
        "last_token_s": after(generation.last_token_s),
    }


def error_words(problem: ExosuitError) -> Words:
    return {
        "type": type(problem).__name__,
        "what": problem.what,
        "cause": problem.cause,
        "next": problem.next,
        "fields": {
            key: value
            for key, value in problem.fields.items()
            if isinstance(value, str | int | float | bool | None)
        },
    }


def error_from(words: Mapping[str, Any]) -> ExosuitError:
    """The error, of the class that it had where that class is known here."""
    kinds: dict[str, type[ExosuitError]] = {}
    waiting: list[type[ExosuitError]] = [ExosuitError]
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting += kind.__subclasses__()
    kind = kinds.get(str(words["type"]), ExosuitError)
    return kind(words["what"], cause=words["cause"], next=words["next"], **words["fields"])


def event_from(words: Words) -> Event:
    token = words["token"]
    sampled = None if token is None else Sampled(token[0], token[1], tuple(map(tuple, token[2])))
    return Event(words["text"], sampled, words["finish_reason"])
