"""One answer as it comes, told in what every dialect knows: thoughts, content, calls, an end.

`Reader` turns the engine's events into `Delta`s; `Answer` is a stream of them; `merged` joins the
answers to one question. Text is never lost: what looks like a mark and is none comes as content.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

from exosuit.engine.batch import Sampled
from exosuit.engine.request import Event, Generation
from exosuit.engine.stops import StopStrings
from exosuit.errors import RequestError
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.constrain import GrammarConstraint
from exosuit.serve.reasoning import Splitter
from exosuit.serve.service import Stream
from exosuit.serve.tools import CallDelta, Parser

Finish = Literal["stop", "length", "tool_calls"]
"""The model or a stop string ended it; no token was left; the client is to run tools."""


@dataclass(frozen=True)
class Delta:
    """News of an answer.

    tokens  those behind this news, end tokens left out; with held-back text they come first
    """

    thoughts: str = ""
    content: str = ""
    calls: tuple[CallDelta, ...] = ()
    tokens: tuple[Sampled, ...] = ()
    finish: Finish | None = None


class Reader:
    """Reads the events of one answer.

    shown    control tokens that the parser or splitter must see, with their texts
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        shown: Mapping[int, str] | None = None,
        splitter: Splitter | None = None,
        parser: Parser | None = None,
        constraint: GrammarConstraint | None = None,
    ) -> None:
        self._ends = tokenizer.end_tokens
        self._shown = shown or {}
        self._splitter = splitter
        self._parser = parser
        self._constraint = constraint
        self._called = False

    def read(self, event: Event) -> Delta:
        """Raises RequestError if the answer ended because its grammar gave up."""
        token = event.token
        text = event.text + (self._shown.get(token.token, "") if token else "")
        is_last = event.finish_reason is not None
        thoughts, answer = self._split(text, is_last)
        content, calls = self._parse(answer, is_last)
        self._called = self._called or bool(calls)
        finish: Finish | None = None
        if is_last:
            if self._constraint is not None and self._constraint.problem:
                raise RequestError(
                    f"the answer's grammar gave up: {self._constraint.problem[:300]}",
                    cause="it became too complex to follow",
                    next="simplify the schema or grammar",
                )
            finish = "length" if event.finish_reason == "length" else "stop"
            if self._called and finish == "stop":
                finish = "tool_calls"
        tokens = (token,) if token is not None and token.token not in self._ends else ()
        return Delta(thoughts, content, calls, tokens, finish)

    def _split(self, text: str, is_last: bool) -> tuple[str, str]:
        if self._splitter is None:
            return "", text
        thoughts, answer = self._splitter.feed(text)
        if is_last:
            last_thoughts, last_answer = self._splitter.flush()
            thoughts, answer = thoughts + last_thoughts, answer + last_answer
        return thoughts, answer

    def _parse(self, text: str, is_last: bool) -> tuple[str, tuple[CallDelta, ...]]:
        if self._parser is None:
            return text, ()
        parts = list(self._parser.feed(text))
        if is_last:
            parts += self._parser.flush()
        content = "".join(part for part in parts if isinstance(part, str))
        return content, tuple(part for part in parts if isinstance(part, CallDelta))


class Answer:
    """The deltas of one answer; leaving the loop or `aclose` ends the work at once."""

    def __init__(self, stream: Stream, reader: Reader) -> None:
        self._stream = stream
        self._reader = reader

    @property
    def generation(self) -> Generation:
        return self._stream.generation

    async def deltas(self) -> AsyncGenerator[Delta]:
        """Those that say something; the last has a `finish`."""
        try:
            async for event in self._stream:
                delta = self._reader.read(event)
                if delta != Delta():
                    yield delta
        finally:
            await self._stream.aclose()

    def cancel(self) -> None:
        self._stream.cancel()


@dataclass
class Whole:
    """A whole answer: its deltas, added up. Calls are complete, in order."""

    thoughts: str = ""
    content: str = ""
    finish: Finish = "stop"

    def __post_init__(self) -> None:
        self.calls: list[Call] = []
        self.tokens: list[Sampled] = []
        self.thought_tokens = 0

    def add(self, delta: Delta) -> None:
        self.thoughts += delta.thoughts
        self.content += delta.content
        self.tokens += delta.tokens
        self.thought_tokens += len(delta.tokens) if delta.thoughts else 0
        for news in delta.calls:
            if news.name is not None:
                self.calls.append(Call(news.name, id=news.id))
            self.calls[news.position].arguments += news.arguments
        self.finish = delta.finish or self.finish


@dataclass
class Call:
    """A tool call; `arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str = ""
    id: str | None = None

    def as_object(self) -> dict[str, Any] | None:
        """The arguments as an object; None if they are none, which a free model may write."""
        try:
            found = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return None
        return cast("dict[str, Any]", found) if isinstance(found, dict) else None


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Delta]]:
    """The deltas of several answers as they come, each with its answer's number.

    Leaving the loop ends all of them; so does an error in one.
    """
    if len(answers) == 1:  # the usual case needs no queue
        deltas = answers[0].deltas()
        try:
            async for delta in deltas:
                yield 0, delta
        finally:
            await deltas.aclose()
        return
    queue: asyncio.Queue[tuple[int, Delta] | BaseException | None] = asyncio.Queue()

    async def read(number: int, answer: Answer) -> None:
        try:
            async for delta in answer.deltas():
                queue.put_nowait((number, delta))
        except Exception as problem:
            queue.put_nowait(problem)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(read(*numbered)) for numbered in enumerate(answers)]
    try:
        left = len(tasks)
        while left:
            news = await queue.get()
            if news is None:
                left -= 1
            elif isinstance(news, BaseException):
                raise news
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def collected(answers: Sequence[Answer]) -> list[Whole]:
    """All answers, whole."""
    wholes = [Whole() for _ in answers]
    deltas = merged(answers)
    try:
        async for number, delta in deltas:
            wholes[number].add(delta)
    finally:
        await deltas.aclose()
    return wholes


def stop_string(generation: Generation, tokenizer: Tokenizer) -> str | None:
    """The stop string that ended the answer, if one did."""
    stops = generation.request.stop
    if not stops or generation.finish_reason != "stop":
        return None
    watch = StopStrings(stops)
    watch.feed(tokenizer.decode(generation.tokens, continues=True))
    return watch.found
