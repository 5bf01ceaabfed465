"""POST /tokenize and /detokenize, as llama.cpp's server has them."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from exosuit.serve.exchange import service_of
from exosuit.serve.fields import Closed, Told
from exosuit.serve.problems import OpenaiError, Refusal, told_as


class TokenizeRequest(Closed):
    """`with_pieces` also tells each token's text."""

    content: str
    model: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class Piece(Told):
    """`piece` is a list of bytes where they are no whole characters."""

    id: int
    piece: str | list[int]


class Tokenized(Told):
    tokens: list[int] | list[Piece]


class DetokenizeRequest(Closed):
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1 << 20)]
    model: str = ""


class Detokenized(Told):
    content: str


def router() -> APIRouter:
    """Text to a model's tokens and back."""
    room = APIRouter(tags=["Texts"], responses=told_as(OpenaiError))

    @room.post("/tokenize", response_model=Tokenized)
    async def tokenize(  # pyright: ignore[reportUnusedFunction]
        body: TokenizeRequest, request: Request
    ) -> Tokenized:
        """A text's tokens."""
        async with await service_of(request).open(body.model) as model:
            tokenizer = model.tokenizer
            ids = await asyncio.to_thread(
                tokenizer.encode, body.content, body.add_special, body.parse_special
            )
        if not body.with_pieces:
            return Tokenized(tokens=ids)
        return Tokenized(
            tokens=[Piece(id=id, piece=_spelt(tokenizer.piece(id, special=True))) for id in ids]
        )

    @room.post("/detokenize", response_model=Detokenized)
    async def detokenize(  # pyright: ignore[reportUnusedFunction]
        body: DetokenizeRequest, request: Request
    ) -> Detokenized:
        """A text of tokens, control tokens written out."""
        async with await service_of(request).open(body.model) as model:
            size = model.tokenizer.vocabulary_size
            if any(id >= size for id in body.tokens):
                raise Refusal(
                    "a token is not in the model's vocabulary",
                    param="tokens",
                    cause=f"ids are 0 to {size - 1}",
                    next="ask /tokenize of the same model",
                )
            text = await asyncio.to_thread(model.tokenizer.decode, body.tokens, special=True)
            return Detokenized(content=text)

    return room


def _spelt(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
