"""One thread for each loaded embedding model: the counterpart of `serve.worker`.

Each request is done as a whole, in the order of asking; there is nothing to stream and nothing to
interleave. When the device fails, the same thread loads the model on the next one and begins the
request again, which nobody has seen a part of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.engine.embed import EmbeddingModel
from exosuit.errors import ExosuitError, ServerBusy
from exosuit.serve.devices import LOST
from exosuit.serve.metrics import Metrics
from exosuit.serve.worker import explained, fail, finish

log = logging.getLogger(__name__)

Inputs = Sequence[Sequence[int]]
Vectors = NDArray[np.float32]

Place = Callable[[Callable[[int, int], None]], EmbeddingModel]
"""Loads the model on the best device there is; see `worker.Place`."""


class EmbeddingWorker:
    """Owns an `EmbeddingModel` and its thread. Its methods are called on the event loop.

    loaded, ready, closed, progress  as of `worker.Worker`
    """

    loaded: EmbeddingModel

    def __init__(
        self,
        name: str,
        place: Place,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        most_waiting: int,
    ) -> None:
        self.name = name
        self.progress = 0.0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._place = place
        self._metrics = metrics
        self._loop = loop
        self._most_waiting = most_waiting
        self._queue: SimpleQueue[tuple[Inputs, Future[Vectors]] | None] = SimpleQueue()
        self._is_working = False
        self._thread = threading.Thread(target=self._run, name=f"embed {name}", daemon=True)
        self._thread.start()

    @property
    def is_loaded(self) -> bool:
        return hasattr(self, "loaded")

    @property
    def is_over(self) -> bool:
        """It has ended, and answers no more."""
        return self.closed.done()

    @property
    def context(self) -> int:
        return self.loaded.context

    @property
    def active(self) -> int:
        return int(self._is_working)

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    async def embed(self, inputs: Inputs) -> Vectors:
        """See `EmbeddingModel.embed`; ServerBusy if too many wait. Cancelling skips the work."""
        if self.waiting >= self._most_waiting:
            self._metrics.refused.labels(self.name).inc()
            raise ServerBusy(
                f"{self.waiting} requests wait for {self.name} already",
                cause=f"the server takes {self._most_waiting} besides the one it works on",
                next="ask again in a second",
                retry_after_s=1,
            )
        answer: Future[Vectors] = Future()
        self._queue.put((inputs, answer))
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Finish what was asked before, free the device, and end the thread."""
        self._queue.put(None)

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
        while (asked := self._queue.get()) is not None:
            inputs, answer = asked
            if answer.set_running_or_notify_cancel():
                self._answer(inputs, answer)
        self.loaded.close()
        self.loaded.device.close()
        self._tell(finish, self.closed)

    def _answer(self, inputs: Inputs, answer: Future[Vectors]) -> None:
        self._is_working = True
        started = time.perf_counter()
        try:
            answer.set_result(self._embed(inputs))
        except ExosuitError as problem:
            answer.set_exception(problem)
        except Exception as problem:
            log.exception("embedding failed", extra={"model": self.name})
            answer.set_exception(explained(problem))
        else:
            self._metrics.prompt_rate.add(sum(len(tokens) for tokens in inputs))
            seconds = round(time.perf_counter() - started, 4)
            log.debug("embedded", extra={"model": self.name, "seconds": seconds})
        finally:
            self._is_working = False

    def _embed(self, inputs: Inputs) -> Vectors:
        """On as many devices as are lost one after the other; raises the last one's problem."""
        while True:
            try:
                return self.loaded.embed(inputs)
            except LOST as problem:
                lost = self.loaded
                facts = {"model": self.name, "device": lost.device.name, "error": problem.what}
                log.error("device lost", extra=facts)
                self._metrics.losses.labels(lost.device.name).inc()
                self.loaded = self._place(self._note_progress)
                lost.close()
                lost.device.close()

    def _note_progress(self, done: int, total: int) -> None:
        self.progress = done / total if total else 0.0

    def _tell(self, work: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it whoever would listen
            self._loop.call_soon_threadsafe(work, *arguments)
