"""`Engine`: requests in, tokens and text out, several at a time.

Each `step` computes one batch on the runner and hands out what it gave: tokens become text, text is
held back where a stop string may begin, and ends are found. Single-threaded; a server feeds it from
a queue. If the runner fails, nothing has moved: the same step can be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from exosuit.clock import Clock, SystemClock
from exosuit.engine.batch import Runner, Sampled
from exosuit.engine.request import Event, FinishReason, Generation, Request, check
from exosuit.engine.scheduler import Scheduler, Sequence
from exosuit.engine.stops import StopStrings
from exosuit.errors import ContextFull

if TYPE_CHECKING:
    from exosuit.models.tokenizer import StreamDecoder


class Decoding(Protocol):
    """What the engine needs of a `models.tokenizer.Tokenizer`."""

    @property
    def end_tokens(self) -> frozenset[int]: ...

    def stream(self, special: bool = False, continues: bool = False) -> StreamDecoder: ...


@dataclass
class _Work:
    """A generation with what turns its tokens into text."""

    generation: Generation
    sequence: Sequence
    decoder: StreamDecoder
    stops: StopStrings


class Engine:
    """Owns a runner's slots and pages, not the runner itself. Use by one thread."""

    def __init__(self, runner: Runner, tokenizer: Decoding, clock: Clock | None = None) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._clock = clock or SystemClock()
        self._scheduler = Scheduler(
            max_sequences=runner.max_sequences,
            max_step_tokens=runner.max_step_tokens,
            pages=runner.pages,
            context=runner.context,
        )
        self._work: dict[int, _Work] = {}
        self._count = 0

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._scheduler.context

    @property
    def is_idle(self) -> bool:
        return self._scheduler.is_idle

    def submit(self, request: Request) -> Generation:
        """Queue a request; RequestError if it makes no sense, ContextFull if its prompt is long."""
        check(request, self._runner.vocabulary)
        if len(request.prompt) >= self.context:
            raise ContextFull(
                f"the prompt has {len(request.prompt)} tokens; the context holds {self.context}",
                cause="prompt and answer share the context, and no token of an answer is left",
                next=f"shorten the prompt, or use --context {len(request.prompt) + 512}"
                " if the model was trained for as many",
                prompt_tokens=len(request.prompt),
                context=self.context,
            )
        self._count += 1
        generation = Generation(self._count, request, self._clock.now())
        sequence = Sequence(self._count, list(request.prompt), request.sampling)
        self._work[generation.id] = _Work(
            generation,
            sequence,
            self._tokenizer.stream(continues=True),
            StopStrings(request.stop),
        )
        self._scheduler.add(sequence)
        return generation

    def step(self) -> list[Generation]:
        """Compute one batch; returns the generations that have news, to be had by `take`."""
        step = self._scheduler.schedule()
        for sequence in step.admitted:
            assert sequence.slot is not None
            self._runner.forget(sequence.slot, sequence.tokens[: sequence.computed])
        if not step.runs:
            return []
        results = self._runner.run([run for _, run in step.runs])
        now = self._clock.now()
        news: list[Generation] = []
        for (sequence, run), sampled in zip(step.runs, results, strict=True):
            self._scheduler.advance(sequence, run, sampled.token if sampled else None)
            work = self._work[sequence.id]
            work.generation.reused_tokens = sequence.reused or 0
            if sampled is not None:
                self._tell(work, sampled, now)
                news.append(work.generation)
        return news

    def stream(
        self, request: Request, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Generation]:
        """The events of one request as they come; steps the engine whenever there are none.

        Requests that were submitted besides move on too. `is_cancelled` is asked before each step.
        Leaving the loop early cancels as well.
        """
        generation = self.submit(request)
        return (yield from self.follow(generation, is_cancelled))

    def follow(
        self, generation: Generation, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Generation]:
        """`stream` for a request that was submitted before."""
        try:
            while True:
                yield from generation.take()
                if generation.is_finished:
                    return generation
                if is_cancelled():
                    self.cancel(generation)
                else:
                    self.step()
        finally:
            self.cancel(generation)

    def cancel(self, generation: Generation) -> None:
        """End a generation now, keeping its text; nothing if it has ended."""
        work = self._work.get(generation.id)
        if work is not None:
            self._finish(work, None, work.decoder.flush(), "cancelled")

    def _tell(self, work: _Work, sampled: Sampled, now: float) -> None:
        """One token's text, and whether the answer ends with it."""
        generation = work.generation
        if generation.first_token_s is None:
            generation.first_token_s = now
        generation.last_token_s = now
        if sampled.token in self._tokenizer.end_tokens:
            self._finish(work, sampled, work.decoder.flush(), "stop")
            return
        text = work.decoder.feed(sampled.token)
        generation.context_full = len(work.sequence.tokens) >= self.context
        most = generation.request.max_tokens
        if generation.context_full or len(generation.sampled) + 1 == most:
            self._finish(work, sampled, text + work.decoder.flush(), "length")
            return
        shown = work.stops.feed(text)
        if work.stops.found is not None:
            self._end(work, Event(shown, sampled, "stop"))
        else:
            generation.tell(Event(shown, sampled))

    def _finish(
        self, work: _Work, sampled: Sampled | None, text: str, reason: FinishReason
    ) -> None:
        """The last text may still hold a stop string, or be what was held back for one."""
        shown = work.stops.feed(text) + work.stops.flush()
        stopped = work.stops.found is not None and reason == "length"
        self._end(work, Event(shown, sampled, "stop" if stopped else reason))

    def _end(self, work: _Work, event: Event) -> None:
        work.generation.tell(event)
        self._scheduler.remove(work.sequence)
        del self._work[work.generation.id]
