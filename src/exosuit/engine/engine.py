"""`Engine`: requests in, tokens and text out, several at a time.

Each `step` computes one batch on the runner and hands out what it gave: tokens become text, text is
held back where a stop string may begin, and ends are found. Single-threaded; a server feeds it from
a queue. If the runner fails, nothing has moved: the same step can be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Protocol

from exosuit.clock import Clock, SystemClock
from exosuit.engine.batch import Run, Runner, Sampled
from exosuit.engine.request import Event, FinishReason, Generation, Request, check
from exosuit.engine.scheduler import Scheduler, Sequence, Step
from exosuit.engine.stops import StopStrings
from exosuit.errors import ContextFull, ExosuitError

if TYPE_CHECKING:
    from exosuit.models.tokenizer import StreamDecoder


PROMPT_TOKENS_BESIDE = 128
"""Tokens of prompts in a step that also decodes: a tenth of a second or so on a host."""


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
    """Owns a runner's slots and pages, not the runner itself. Use by one thread.

    computed_tokens  of all requests so far, of prompts and of answers
    """

    def __init__(self, runner: Runner, tokenizer: Decoding, clock: Clock | None = None) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._clock = clock or SystemClock()
        self._scheduler = _scheduler_of(runner)
        self._work: dict[int, _Work] = {}
        self._ids = count(1)
        self.computed_tokens = 0

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._scheduler.context

    @property
    def is_idle(self) -> bool:
        return self._scheduler.is_idle

    @property
    def waiting(self) -> int:
        """Requests that have no place in the batch yet."""
        return len(self._scheduler.waiting)

    @property
    def active(self) -> int:
        """Requests in the batch."""
        return len(self._scheduler.running)

    def submit(self, request: Request) -> Generation:
        """Queue a request; RequestError if it makes no sense, ContextFull if its prompt is long."""
        generation = self.prepare(request)
        self.start(generation)
        return generation

    def prepare(self, request: Request) -> Generation:
        """The generation of a request that makes sense, to be started later; errors as `submit`.

        Touches nothing that moves: any thread may call it.
        """
        check(request, self._runner.vocabulary)
        if len(request.prompt) >= self.context:
            raise _too_long(len(request.prompt), self.context)
        return Generation(next(self._ids), request, self._clock.now())

    def start(self, generation: Generation) -> None:
        """Queue what was prepared. It ends at once if another runner holds too little for it."""
        request = generation.request
        sequence = Sequence(generation.id, list(request.prompt), request.sampling)
        work = _Work(
            generation,
            sequence,
            self._tokenizer.stream(continues=True),
            StopStrings(request.stop),
        )
        if len(request.prompt) >= self.context:
            _fail(work, _too_long(len(request.prompt), self.context))
            return
        self._work[generation.id] = work
        self._scheduler.add(sequence)

    def resume_on(self, runner: Runner) -> list[Generation]:
        """Go on with another runner: every generation waits to be computed again from its tokens.

        For when a device is lost. Those that its context cannot hold end with an error; returned.
        """
        sequences = self._scheduler.abandon()
        self._runner = runner
        self._scheduler = _scheduler_of(runner)
        ended: list[Generation] = []
        for sequence in sequences:
            if len(sequence.tokens) < self.context:
                self._scheduler.add(sequence)
                continue
            work = self._work.pop(sequence.id)
            _fail(
                work,
                ContextFull(
                    f"the text has {len(sequence.tokens)} tokens; the device that took over holds"
                    f" {self.context}",
                    cause="the device that worked on it was lost, and the next best is smaller",
                    next="send the request again with a shorter text",
                    context=self.context,
                ),
            )
            ended.append(work.generation)
        return ended

    def fail(self, problem: ExosuitError) -> list[Generation]:
        """End every generation with an error; returns them."""
        ended = [work.generation for work in self._work.values()]
        for work in self._work.values():
            _fail(work, problem)
        self._work.clear()
        self._scheduler.abandon()
        return ended

    def step(self) -> list[Generation]:
        """Compute one batch; returns the generations that have news, to be had by `take`."""
        step = self._scheduler.schedule()
        for sequence in step.admitted:
            assert sequence.slot is not None
            self._runner.forget(sequence.slot, sequence.tokens[: sequence.computed])
        news: list[Generation] = []
        runs = self._masked(step, news)
        if not runs:
            return news
        results = self._runner.run([run for _, run in runs])
        self.computed_tokens += sum(len(run.tokens) for _, run in runs)
        now = self._clock.now()
        for (sequence, run), sampled in zip(runs, results, strict=True):
            self._scheduler.advance(sequence, run, sampled.token if sampled else None)
            work = self._work[sequence.id]
            work.generation.reused_tokens = sequence.reused or 0
            if sampled is not None:
                self._tell(work, sampled, now)
                news.append(work.generation)
        return news

    def _masked(self, step: Step, news: list[Generation]) -> list[tuple[Sequence, Run]]:
        """The step's runs with the masks of their constraints; without those that have none."""
        runs: list[tuple[Sequence, Run]] = []
        for sequence, run in step.runs:
            work = self._work[sequence.id]
            constraint = work.generation.request.constraint
            if constraint is None or run.sample is None:
                runs.append((sequence, run))
                continue
            try:
                runs.append((sequence, replace(run, mask=constraint.mask())))
            except ExosuitError as problem:
                self._give_up(work, problem)
                news.append(work.generation)
        return runs

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

    def _give_up(self, work: _Work, problem: ExosuitError) -> None:
        """End one generation with an error."""
        _fail(work, problem)
        self._forget(work)

    def _tell(self, work: _Work, sampled: Sampled, now: float) -> None:
        """One token's text, and whether the answer ends with it."""
        generation = work.generation
        if generation.first_token_s is None:
            generation.first_token_s = now
        generation.last_token_s = now
        constraint = generation.request.constraint
        is_complete = False
        if constraint is not None:
            try:
                constraint.accept(sampled.token)
                is_complete = constraint.is_done
            except ExosuitError as problem:
                self._give_up(work, problem)
                return
        if sampled.token in self._tokenizer.end_tokens:
            self._finish(work, sampled, work.decoder.flush(), "stop")
            return
        text = work.decoder.feed(sampled.token)
        if is_complete:
            self._finish(work, sampled, text + work.decoder.flush(), "stop")
            return
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
        self._forget(work)

    def _forget(self, work: _Work) -> None:
        self._scheduler.remove(work.sequence)
        del self._work[work.generation.id]


def _too_long(tokens: int, context: int) -> ContextFull:
    return ContextFull(
        f"the prompt has {tokens} tokens; the context holds {context}",
        cause="prompt and answer share the context, and no token of an answer is left",
        next=f"shorten the prompt, or use --context {tokens + 512}"
        " if the model was trained for as many",
        prompt_tokens=tokens,
        context=context,
    )


def _fail(work: _Work, problem: ExosuitError) -> None:
    """The generation's last event, with the text that was held back."""
    work.generation.error = problem
    text = work.stops.feed(work.decoder.flush()) + work.stops.flush()
    work.generation.tell(Event(text, None, "error"))


def _scheduler_of(runner: Runner) -> Scheduler:
    return Scheduler(
        max_sequences=runner.max_sequences,
        max_step_tokens=runner.max_step_tokens,
        pages=runner.pages,
        context=runner.context,
        prompt_tokens_beside=PROMPT_TOKENS_BESIDE,
    )
