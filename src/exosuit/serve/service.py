"""`Service`: the one owner of devices and models. Async in front, an engine thread for each model.

Knows nothing of HTTP. Every method is called on the event loop; the work is done by the threads of
`serve.worker`, whose events come back to the loop in batches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from exosuit.engine.request import Event, Generation, Request
from exosuit.models.chat import ChatTemplate
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.facts import LoadedInfo, ModelInfo, Status


class Stream:
    """The events of one request. Leaving the loop, `aclose` or `cancel` ends the work at once.

    Raises the generation's ExosuitError where it ended with one (`finish_reason` "error").

    generation  the answer so far: text, tokens, usage, timings, finish_reason
    """

    generation: Generation

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Event: ...

    def cancel(self) -> None: ...

    async def aclose(self) -> None: ...


class ServedModel:
    """A loaded model that somebody holds; it stays loaded until `release`.

    name      as it was asked for, without a tag
    template  None if the file has no chat template
    context   most tokens of a prompt and its answer together
    """

    info: ModelInfo
    tokenizer: Tokenizer
    template: ChatTemplate | None
    context: int
    device_name: str

    def generate(self, request: Request) -> Stream:
        """Begin an answer. RequestError, ContextFull or ServerBusy at once, before any event."""
        ...

    async def embed(self, inputs: list[list[int]]) -> NDArray[np.float32]:
        """[n, width], pooled and normalised as the model says; UnsupportedModel if it is none."""
        ...

    def release(self) -> None:
        """Start the keep-alive clock; a second call does nothing."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class PullProgress:
    """How far a download has come; `total_bytes` is None where nobody knows."""

    label: str
    done_bytes: int
    total_bytes: int | None


class Service:
    """Owns devices and loaded models. All methods are called on the event loop."""

    async def open(
        self, name: str, *, keep_alive_s: float | None = None, context: int | None = None
    ) -> ServedModel:
        """The model, loaded if it is not; "" is the default model.

        keep_alive_s  how long it stays loaded after its last release: 0 not at all, infinity for
                      ever, None as the server was told
        Raises ModelNotFound, DoesNotFit and the other ModelErrors, ServerBusy.
        """
        ...

    def catalogue(self) -> list[ModelInfo]:
        """The models of the store."""
        ...

    def find(self, name: str) -> ModelInfo:
        """One of them; "name:latest" is "name". ModelNotFound with the nearest name."""
        ...

    def loaded(self) -> list[LoadedInfo]: ...

    async def unload(self, name: str) -> bool:
        """Unload once its last holder releases it; False if it is not loaded."""
        ...

    def pull(self, name: str) -> AsyncIterator[PullProgress]:
        """Fetch a model into the store; the iteration ends when it is there."""
        ...

    async def copy(self, source: str, target: str) -> None: ...

    async def delete(self, name: str) -> None: ...

    def status(self) -> Status: ...

    async def close(self, drain_s: float) -> None:
        """Take no more, let what runs go on for `drain_s`, then end it; frees all devices."""
        ...
