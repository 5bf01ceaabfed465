"""One question of one client on its way: the model it holds, the answers that grow, the end.

Every dialect's handler begins an exchange and sends what comes of it, whole or as a stream. However
it ends (done, refused, left by the client), the answers stop and the model is released.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Self

from starlette.requests import Request

from exosuit.serve.answer import Answer, Delta, Whole, collected, merged
from exosuit.serve.keep_alive import keep_alive_s
from exosuit.serve.problems import Problem
from exosuit.serve.sending import Frames, Sending, attended, guarded
from exosuit.serve.service import ServedModel, Service
from exosuit.serve.turn import Turn, asked


def service_of(request: Request) -> Service:
    """The service that the app was built for."""
    return request.app.state.service


def request_id_of(request: Request) -> str:
    return request.state.request_id


class Exchange:
    """Live; belongs to one request. `close` may be called more than once.

    load_s  how long it took until the model was there
    """

    def __init__(
        self, request: Request, model: ServedModel, turns: list[Turn], answers: list[Answer]
    ) -> None:
        self.id = request_id_of(request)
        self.model = model
        self.turns = turns
        self.answers = answers
        self.load_s = 0.0
        self._request = request
        self._began = time.monotonic()

    @classmethod
    async def begin(
        cls,
        request: Request,
        name: str,
        ask: Callable[[ServedModel], Turn | list[Turn]],
        *,
        keep_alive: float | str | None = None,
        context: int | None = None,
    ) -> Self:
        """Load the model if need be, and hand its answers to the engine.

        keep_alive  as Ollama means it; see `serve.keep_alive`
        Raises the errors of `Service.open`, of `ask` and of `ServedModel.generate`.
        """
        seconds = None if keep_alive is None else keep_alive_s(keep_alive)

        began = time.monotonic()

        async def begun() -> Self:
            model = await service_of(request).open(name, keep_alive_s=seconds, context=context)
            loaded = time.monotonic()
            try:
                turns, answers = await asked(lambda: ask(model))
            except BaseException:
                model.release()
                raise
            exchange = cls(request, model, turns, answers)
            exchange.load_s, exchange._began = loaded - began, began
            return exchange

        return await attended(request, begun())

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta]]:
        """News of all answers, with their numbers."""
        deltas = merged(self.answers)
        try:
            async for numbered in deltas:
                yield numbered
        finally:
            await deltas.aclose()

    async def whole(self) -> list[Whole]:
        """All answers once they are complete; ends at once when the client leaves."""
        try:
            return await attended(self._request, collected(self.answers))
        finally:
            self.close()

    def send(
        self,
        frames: Frames,
        told: Callable[[Problem], bytes],
        media_type: str,
        idle: bytes | None = None,
    ) -> Sending:
        """The frames as a response; `told` puts an error on the way into the dialect's words."""
        return Sending(guarded(frames, told, self.id), media_type, self.close, idle)

    def close(self) -> None:
        for answer in self.answers:
            answer.cancel()
        self.model.release()

    def elapsed_s(self) -> float:
        """Since the request was read."""
        return time.monotonic() - self._began

    # What the answers took ----------------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        return sum(len(turn.prompt) for turn in self.turns)

    @property
    def reused_tokens(self) -> int:
        """Of the prompts; the first answer to each found them in the cache, or computed them."""
        firsts = self.answers[:: len(self.answers) // len(self.turns)]
        return sum(answer.generation.usage.reused_tokens for answer in firsts)

    @property
    def completion_tokens(self) -> int:
        return sum(answer.generation.usage.completion_tokens for answer in self.answers)
