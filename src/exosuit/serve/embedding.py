"""Texts to vectors, for the dialects that have an endpoint for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from exosuit.errors import ContextFull
from exosuit.serve.exchange import service_of
from exosuit.serve.keep_alive import keep_alive_s
from exosuit.serve.problems import Refusal
from exosuit.serve.sending import attended
from exosuit.serve.service import ServedModel


@dataclass(frozen=True)
class Embedded:
    """`vectors` [inputs, dimensions] of length 1; `tokens` of all inputs; `load_s` of the model."""

    model: str
    vectors: NDArray[np.float32]
    tokens: int
    load_s: float


async def embedded(
    request: Request,
    name: str,
    inputs: Sequence[str | list[int]],
    *,
    dimensions: int | None = None,
    truncate: bool = False,
    keep_alive: float | str | None = None,
) -> Embedded:
    """Raises ContextFull for an input that is too long, unless it is to be cut.

    dimensions  only the first so many, made to length 1 again: for models trained so
    """
    seconds = None if keep_alive is None else keep_alive_s(keep_alive)

    began = time.monotonic()

    async def work() -> Embedded:
        async with await service_of(request).open(name, keep_alive_s=seconds) as model:
            load_s = time.monotonic() - began
            tokens = await asyncio.to_thread(_tokens, model, inputs, truncate)
            vectors = await model.embed(tokens) if tokens else np.zeros((0, 0), np.float32)
            if dimensions is not None and tokens:
                vectors = _shortened(vectors, dimensions)
            return Embedded(model.info.name, vectors, sum(map(len, tokens)), load_s)

    return await attended(request, work())


def _tokens(
    model: ServedModel, inputs: Sequence[str | list[int]], truncate: bool
) -> list[list[int]]:
    tokenizer, most = model.tokenizer, model.context
    tokenized = [tokenizer.encode(i) if isinstance(i, str) else list(i) for i in inputs]
    for number, ids in enumerate(tokenized):
        if any(id >= tokenizer.vocabulary_size for id in ids):
            raise Refusal(
                f"input {number} has a token that the model does not know",
                param="input",
                cause=f"ids are 0 to {tokenizer.vocabulary_size - 1}",
                next="send text instead",
            )
        if len(ids) > most and truncate:
            tokenized[number] = [*ids[: most - 1], ids[-1]]  # the last closes the text
        elif len(ids) > most or not ids:
            raise ContextFull(
                f"input {number} has {len(ids)} tokens; the model takes 1 to {most}",
                cause="an input is embedded as a whole",
                next="cut it into pieces",
                param="input",
            )
    return tokenized


def _shortened(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    if dimensions > vectors.shape[1]:
        raise Refusal(
            f"{dimensions} dimensions are asked for; the model has {vectors.shape[1]}",
            param="dimensions",
            cause="vectors can be cut, not stretched",
            next="leave dimensions out",
        )
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return (cut / np.where(lengths > 0, lengths, 1)).astype(np.float32)
