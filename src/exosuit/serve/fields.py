"""What the bodies of all dialects share: how strictly they are read, and their common fields."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

MOST_MESSAGES = 4096
MOST_TOOLS = 512
MOST_ANSWERS = 16
MOST_TOP_LOGPROBS = 20
MOST_PENALISED = 4096


class Closed(BaseModel):
    """A body whose unknown fields are refused, as OpenAI and Anthropic do."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """A body whose unknown fields are ignored: messages that clients send back as they got them."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Told(BaseModel):
    """A body that the server sends."""

    model_config = ConfigDict(extra="forbid")


Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Repetition = Annotated[float, Field(gt=0, le=10)]
TopK = Annotated[int, Field(ge=-1, le=1 << 20)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Tokens = Annotated[int, Field(ge=1, le=1 << 24)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Stops = Annotated[list[Stop], Field(max_length=64)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


def seed_of(seed: int | None) -> int:
    """The engine's seed; a new one where none is given."""
    return secrets.randbits(32) if seed is None or seed == -1 else seed % 2**32


def last_n_of(given: int | None, usual: int) -> tuple[int, bool]:
    """How many tokens the penalties look at (-1: as many as they can), and whether at any."""
    if given is None:
        return usual, True
    return (MOST_PENALISED if given < 0 else max(1, min(given, MOST_PENALISED))), given != 0


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    if not stop:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def arguments_of(written: str | dict[str, Any] | None) -> Any:
    """A call's arguments as templates want them: an object, or the text if it is none."""
    if not isinstance(written, str):
        return written or {}
    try:
        found = json.loads(written or "{}")
    except (ValueError, RecursionError):
        return written
    return cast("dict[str, Any]", found) if isinstance(found, dict) else written
