"""A service whose models say what they are told to: every dialect, without an engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np

from exosuit.engine.batch import Sampled
from exosuit.engine.request import Event, FinishReason, Generation, Request
from exosuit.errors import ExosuitError
from exosuit.models.chat import ChatTemplate
from exosuit.models.store import unknown_model
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.app import make_app
from exosuit.serve.facts import LoadedInfo, ModelInfo, PullProgress
from exosuit.serve.safety import Rules

CHATML = (
    "{% for t in tools or [] %}{{ t | tojson }}<tool_call></think>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


class ScriptedStream:
    """The words of a text as events, then its end: a finish reason, or an error."""

    def __init__(self, model: ScriptedModel, request: Request) -> None:
        self.generation = Generation(1, request, 0.0)
        self.is_cancelled = False
        self._model = model
        ids = model.tokenizer.encode(model.says, add_special=False)
        stream = model.tokenizer.stream(continues=True)
        self._events = [Event(stream.feed(id), Sampled(id, -0.5, ((id, -0.5),))) for id in ids]
        if not isinstance(model.ends, ExosuitError):
            self._events.append(Event(stream.flush(), Sampled(2, -0.1), model.ends))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await asyncio.sleep(0)
        if not self._events:
            if isinstance(self._model.ends, ExosuitError):
                raise self._model.ends
            raise StopAsyncIteration
        event = self._events.pop(0)
        self.generation.tell(event)
        self.generation.first_token_s = self.generation.first_token_s or 0.5
        self.generation.last_token_s = 1.0
        return event

    def cancel(self) -> None:
        self.is_cancelled = True

    async def aclose(self) -> None:
        self.cancel()


@dataclass
class ScriptedModel:
    """`asked` are the requests that it got, `held` how often it is held."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    info: ModelInfo
    says: str = "Hello."
    ends: FinishReason | ExosuitError = "stop"
    context: int = 4096
    device_name: str = "cpu"
    asked: list[Request] = field(default_factory=list[Request])
    streams: list[ScriptedStream] = field(default_factory=list[ScriptedStream])
    held: int = 0

    def generate(self, request: Request) -> ScriptedStream:
        self.asked.append(request)
        self.streams.append(ScriptedStream(self, request))
        return self.streams[-1]

    async def embed(self, inputs: list[list[int]]) -> Any:
        return np.eye(len(inputs), 4, dtype=np.float32)

    def release(self) -> None:
        self.held -= 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class ScriptedService:
    """One model, called "toy"."""

    is_draining = False
    default_name = "toy"

    def __init__(self, tokenizer: Tokenizer, source: str = CHATML) -> None:
        template = ChatTemplate(source, control_texts=tokenizer.control_texts)
        info = ModelInfo("toy", Path("/nowhere"), 10, "ab" * 32, "llama", 134_515_008, "Q4_1", 8192,
                         "2026-11-24T12:00:00+00:00")  # fmt: skip
        self.model = ScriptedModel(tokenizer, template, info)
        self.opened: list[tuple[str, float | None, int | None]] = []
        self.unloaded: list[str] = []
        self.copied: list[tuple[str, str]] = []
        self.rows: list[LoadedInfo] = []
        self.progress: Sequence[PullProgress | ExosuitError] = ()

    async def open(
        self, name: str, *, keep_alive_s: float | None = None, context: int | None = None
    ) -> ScriptedModel:
        self.find(name)
        self.opened.append((name, keep_alive_s, context))
        self.model.held += 1
        return self.model

    def find(self, name: str) -> ModelInfo:
        if name.removesuffix(":latest") not in ("", "toy"):
            raise unknown_model(name, ["toy"])
        return self.model.info

    def catalogue(self) -> list[ModelInfo]:
        return [self.model.info]

    def loaded(self) -> list[LoadedInfo]:
        return self.rows

    async def unload(self, name: str) -> bool:
        self.unloaded.append(name)
        return True

    async def copy(self, source: str, target: str) -> None:
        self.copied.append((source, target))

    async def pull(self, name: str) -> AsyncIterator[PullProgress]:
        for step in self.progress:
            if isinstance(step, ExosuitError):
                raise step
            yield step


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        """Of a stream of server-sent events; the end mark of OpenAI's is left out."""
        lines = [line[6:] for line in self.text.splitlines() if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines()]


def client(service: ScriptedService, rules: Rules | None = None) -> Callable[..., Answer]:
    """`ask(path, body)`: one request to the whole app; without a body it is a GET."""
    app: Any = make_app(service, rules)  # type: ignore[arg-type]

    def ask(path: str, body: Any = None, method: str = "", **headers: str) -> Answer:
        async def go() -> Answer:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
                verb = method or ("GET" if body is None else "POST")
                found = await c.request(verb, path, json=body, headers=headers)
                return Answer(found.status_code, found.text)

        return asyncio.run(go())

    return ask
