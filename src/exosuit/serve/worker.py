"""One thread for each loaded model: it loads it, steps its engine, and moves it to another device.

The event loop puts commands into a queue and gets events back in batches, one call for each step.
Nothing here waits for the loop, and the loop waits for nothing here. When the device fails, the
same thread loads the model on the next one and goes on where each answer was.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Self

from exosuit.engine.open import LoadedModel
from exosuit.engine.request import Event, Generation, Request
from exosuit.errors import ExosuitError, ServerBusy
from exosuit.serve.devices import LOST
from exosuit.serve.metrics import Metrics

log = logging.getLogger(__name__)


class Mailbox:
    """Where a worker's thread leaves the events of one request, for the loop to take."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, events: list[Event]) -> None:
        """On the loop: more have come."""
        self.events.extend(events)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until there is something."""
        while not self.events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class Stream:
    """The events of one request. Leaving the loop, `aclose` or `cancel` ends the work at once.

    Raises the generation's ExosuitError where it ended with one (`finish_reason` "error"). Used on
    the event loop only.

    generation  the answer so far: text, tokens, usage, timings, finish_reason
    """

    def __init__(self, worker: Worker, generation: Generation, mailbox: Mailbox) -> None:
        self.generation = generation
        self._worker = worker
        self._mailbox = mailbox
        self._is_open = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._is_open:
            if self.generation.error is not None:
                raise self.generation.error
            raise StopAsyncIteration
        try:
            await self._mailbox.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        event = self._mailbox.events.popleft()
        if event.finish_reason is not None:
            self._close()
            if self.generation.error is not None and not event.text:
                raise self.generation.error
        return event

    def cancel(self) -> None:
        """End the work now; nothing if it has ended. What was not taken is dropped."""
        if self._is_open:
            self._close()
            self._worker.cancel(self.generation)

    async def aclose(self) -> None:
        self.cancel()

    def _close(self) -> None:
        self._is_open = False
        self._worker.leave()

    def __del__(self) -> None:
        self.cancel()  # somebody left an `async for` and kept nothing


Place = Callable[[Callable[[int, int], None]], LoadedModel]
"""Loads the model on the best device there is, in the calling thread; told bytes done and in all.

Its engine is idle, and its `device` is a lease that closing gives back.
"""


class Worker:
    """Owns a `LoadedModel` and its thread. Its methods are called on the event loop.

    loaded    the model, once `ready` is done; another one after a device was lost
    progress  0.0 to 1.0 while it loads
    """

    loaded: LoadedModel

    def __init__(
        self,
        name: str,
        place: Place,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        most_waiting: int,
        leave: Callable[[], None],
    ) -> None:
        """`leave` is called whenever a stream is over, however."""
        self.leave = leave
        self.name = name
        self.progress = 0.0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._place = place
        self._metrics = metrics
        self._loop = loop
        self._most_waiting = most_waiting
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._work: dict[int, tuple[Generation, Mailbox]] = {}  # the thread's
        self._is_closing = False
        self._is_over = False  # nothing that is put now would be looked at
        self._gate = threading.Lock()
        self._failure: ExosuitError | None = None
        self._seconds_each = 1.0
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        return self.loaded.engine.active if self.is_loaded else 0

    @property
    def waiting(self) -> int:
        engine = self.loaded.engine.waiting if self.is_loaded else 0
        return engine + self._commands.qsize()

    @property
    def is_loaded(self) -> bool:
        return hasattr(self, "loaded")

    @property
    def is_over(self) -> bool:
        """It has failed or ended, and answers no more."""
        return self._is_over or self._failure is not None

    @property
    def context(self) -> int:
        return self.loaded.engine.context

    def generate(self, request: Request) -> Stream:
        """Begin an answer; RequestError, ContextFull or ServerBusy at once."""
        generation = self.loaded.engine.prepare(request)
        waiting = self.waiting
        if waiting >= self._most_waiting:
            seconds = max(1, round(waiting * self._seconds_each / max(1, self.active)))
            self._metrics.refused.labels(self.name).inc()
            raise ServerBusy(
                f"{waiting} requests wait for {self.name} already",
                cause=f"the server takes {self._most_waiting} besides those it works on",
                next=f"ask again in {seconds} s",
                retry_after_s=seconds,
            )
        mailbox = Mailbox()
        with self._gate:
            if self._is_over:
                raise self._failure or ServerBusy(
                    f"{self.name} is being unloaded",
                    cause="it was told to, or the server is ending",
                    next="ask again in a moment",
                    retry_after_s=1,
                )
            self._commands.put(lambda: self._start(generation, mailbox))
        return Stream(self, generation, mailbox)

    def cancel(self, generation: Generation) -> None:
        self._commands.put(lambda: self._cancel(generation))

    def call(self, work: Callable[[LoadedModel], None]) -> None:
        """Have something done with the model in its thread, between two steps."""
        self._commands.put(lambda: work(self.loaded))

    def close(self) -> None:
        """End every answer with what it has, free the device, and finish the thread."""
        self._commands.put(self._begin_closing)

    # The thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.loaded = self._place(self._note_progress)
        except BaseException as problem:
            if not isinstance(problem, ExosuitError):
                log.exception("loading failed", extra={"model": self.name})
            self._tell(fail, self.ready, explained(problem))
            self._tell(finish, self.closed)
            return
        self.progress = 1.0
        self._tell(finish, self.ready)
        engine = self.loaded.engine
        try:
            while not self._is_closing:
                self._obey(wait=engine.is_idle)
                if not engine.is_idle:
                    self._step()
        except Exception as problem:
            log.exception("an engine thread failed", extra={"model": self.name})
            self._failure = explained(problem)
        finally:
            self._close()

    def _obey(self, wait: bool) -> None:
        """Every command that is there; if `wait`, at least one."""
        with suppress(Empty):
            if wait:
                self._commands.get()()
            while True:
                self._commands.get_nowait()()

    def _step(self) -> None:
        engine = self.loaded.engine
        started, before = time.perf_counter(), engine.computed_tokens
        try:
            news = engine.step()
        except LOST as problem:
            self._move(problem)
        except Exception as problem:
            log.exception("a step failed", extra={"model": self.name})
            engine.fail(explained(problem))
        else:
            seconds = time.perf_counter() - started
            self._metrics.step(self.name, seconds, len(news))
            self._metrics.sampled_rate.add(len(news))
            self._metrics.prompt_rate.add(max(0, engine.computed_tokens - before - len(news)))
            self._deliver(news)
            return
        self._deliver_all()

    def _deliver(self, news: Iterable[Generation]) -> None:
        """Hand events over to the loop, all of a step in one call."""
        batch: list[tuple[Mailbox, list[Event]]] = []
        for generation in news:
            _, mailbox = self._work[generation.id]
            batch.append((mailbox, generation.take()))
            if generation.is_finished:
                self._finished(generation)
        if batch:
            self._tell(_hand_out, batch)

    def _deliver_all(self) -> None:
        self._deliver([generation for generation, _ in self._work.values()])

    def _finished(self, generation: Generation) -> None:
        del self._work[generation.id]
        seconds = time.monotonic() - generation.submitted_s
        self._seconds_each += 0.1 * (seconds - self._seconds_each)
        self._metrics.generation(self.name, generation)

    def _start(self, generation: Generation, mailbox: Mailbox) -> None:
        self._work[generation.id] = (generation, mailbox)
        self.loaded.engine.start(generation)
        if generation.is_finished:  # the model has moved to a device that cannot hold it
            self._deliver([generation])

    def _cancel(self, generation: Generation) -> None:
        if generation.id in self._work:
            self.loaded.engine.cancel(generation)
            self._finished(generation)

    def _move(self, problem: ExosuitError) -> None:
        """Go on with the next best device, or end every answer with why not."""
        lost = self.loaded
        facts = {"model": self.name, "answers": len(self._work)}
        log.error("device lost", extra=facts | {"device": lost.device.name, "error": problem.what})
        self._metrics.losses.labels(lost.device.name).inc()
        try:
            found = self._place(self._note_progress)
        except Exception as second:
            self._failure = _without_device(problem, explained(second))
            self._is_closing = True
            return
        lost.engine.resume_on(found.runner)
        self.loaded = replace(found, engine=lost.engine)
        lost.close()
        lost.device.close()
        log.warning("answers go on", extra=facts | {"device": found.device.name})

    def _begin_closing(self) -> None:
        self._is_closing = True

    def _close(self) -> None:
        with self._gate:
            self._is_over = True
        try:
            self._obey(wait=False)  # what came while it ended
            engine = self.loaded.engine
            if self._failure is not None:
                engine.fail(self._failure)
            for generation, _ in self._work.values():
                engine.cancel(generation)
            self._deliver_all()
        except Exception:
            log.exception("answers were not ended", extra={"model": self.name})
        try:
            self.loaded.close()
        except Exception:
            log.exception("a model was not closed", extra={"model": self.name})
        finally:
            self.loaded.device.close()
            self._tell(finish, self.closed)

    def _note_progress(self, done: int, total: int) -> None:
        self.progress = done / total if total else 0.0

    def _tell(self, work: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it whoever would listen
            self._loop.call_soon_threadsafe(work, *arguments)


def _hand_out(batch: list[tuple[Mailbox, list[Event]]]) -> None:
    for mailbox, events in batch:
        mailbox.put(events)


def finish(future: asyncio.Future[None]) -> None:
    """On the loop: it is done."""
    if not future.done():
        future.set_result(None)


def fail(future: asyncio.Future[None], problem: ExosuitError) -> None:
    """On the loop: it ended with a problem."""
    if not future.done():
        future.set_exception(problem)


def explained(problem: BaseException) -> ExosuitError:
    """Itself, or what no user caused as an error of three lines."""
    if isinstance(problem, ExosuitError):
        return problem
    return ExosuitError(
        f"exosuit itself failed: {type(problem).__name__}: {problem}",
        cause="a mistake in exosuit",
        next="send the request again; the server's log has the details",
    )


def _without_device(lost: ExosuitError, second: ExosuitError) -> ExosuitError:
    return type(lost)(
        f"the device was lost and no other could take over: {lost.what}",
        cause=f"{lost.cause}; then: {second.what}",
        next=second.next,
        **lost.fields,
    )
