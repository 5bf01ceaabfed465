"""`Chat`: a conversation with a model, kept as messages; `Continuation`: texts that stand alone.

Each turn renders all messages through the model's template; the engine finds the earlier turns in
its cache, so nothing has to be remembered here. However an answer ends, the chat can go on: what
was said of it stays, and a question that got no answer at all is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Protocol

from exosuit.engine.batch import Sampling
from exosuit.engine.request import Event, Generation, Request
from exosuit.errors import ContextFull

if TYPE_CHECKING:
    from exosuit.models.chat import ChatTemplate
    from exosuit.models.tokenizer import Tokenizer


class Answers(Protocol):
    """Who answers requests: an `Engine` here, or one in the process that owns the device."""

    @property
    def context(self) -> int: ...

    def submit(self, request: Request) -> Generation: ...

    def stream(
        self, request: Request, is_cancelled: Callable[[], bool] = ...
    ) -> Generator[Event, None, Generation]: ...

    def follow(
        self, generation: Generation, is_cancelled: Callable[[], bool] = ...
    ) -> Generator[Event, None, Generation]: ...


class Chat:
    """One conversation. `sampling`, `max_tokens` and `stop` hold for every answer from now on."""

    def __init__(
        self,
        engine: Answers,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self.sampling = sampling or Sampling()
        self.max_tokens = max_tokens
        self.stop = stop
        self.system = system
        self.turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the template sees."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return before + self.turns

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns = []

    def ask(
        self, text: str, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Generation]:
        """The answer to `text`, as it comes; see `Engine.stream` for how to interrupt it.

        Raises ContextFull if the conversation is too long for an answer, RequestError or
        TemplateFailed if the template does not take it. The chat is then as it was.
        """
        self.turns.append({"role": "user", "content": text})
        generation: Generation | None = None
        try:
            prompt = self._template.render(self.messages)
            request = Request(
                tuple(self._tokenizer.encode_chat(prompt.segments)),
                self.sampling,
                self.max_tokens,
                self.stop,
            )
            generation = self._submit(request)
            return (yield from self._engine.follow(generation, is_cancelled))
        finally:
            if generation is not None and generation.text:
                self.turns.append({"role": "assistant", "content": generation.text})
            else:
                self.turns.pop()

    def _submit(self, request: Request) -> Generation:
        try:
            return self._engine.submit(request)
        except ContextFull as problem:
            if len(self.turns) == 1:
                raise
            raise ContextFull(
                f"the conversation has {len(request.prompt)} tokens; the context holds"
                f" {self._engine.context}",
                cause="it has grown until no room for an answer is left",
                next="/clear starts anew, /bye and a larger --context goes further",
                **problem.fields,
            ) from problem


class Continuation:
    """Each text is continued as it stands, control tokens in it included; nothing is kept."""

    def __init__(
        self,
        engine: Answers,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.sampling = sampling or Sampling()
        self.max_tokens = max_tokens
        self.stop = stop

    def ask(
        self, text: str, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Generation]:
        """What follows `text`, as it comes; see `Engine.stream`."""
        prompt = tuple(self._tokenizer.encode(text, parse_special=True))
        request = Request(prompt, self.sampling, self.max_tokens, self.stop)
        return (yield from self._engine.stream(request, is_cancelled))
