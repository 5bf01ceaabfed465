"""`Service`: the one owner of devices and models. Async in front, an engine thread for each model.

Knows nothing of HTTP. Every method is called on the event loop; the work is done by the threads of
`serve.worker`, whose events come back to the loop in batches.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from exosuit.driver.device import Device
from exosuit.engine.request import Request
from exosuit.errors import ModelNotFound, ServerBusy, UnsupportedModel, UsageError
from exosuit.models.chat import ChatTemplate
from exosuit.models.pull import pull
from exosuit.models.pull_names import DEFAULT_MODEL
from exosuit.models.store import Store, checked_name
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.catalogue import Catalogue
from exosuit.serve.devices import Devices
from exosuit.serve.facts import LoadedInfo, ModelInfo, PullProgress, Status
from exosuit.serve.metrics import Metrics
from exosuit.serve.pool import Held, Policy, Pool
from exosuit.serve.pulling import watched
from exosuit.serve.worker import Stream, Worker

__all__ = ["PullProgress", "ServedModel", "Service", "Setup", "Stream"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a service is made of.

    devices   names as in `--device`, best first
    opener    opens one of them
    model     what "" means: a name of the store or a file; None for the demonstration model
    findings  rows of `doctor --json` that are not ok, for the status
    """

    store: Store
    devices: Sequence[str]
    opener: Callable[[str], Device]
    policy: Policy
    model: str | Path | None = None
    findings: Callable[[], list[dict[str, Any]]] = list


class ServedModel:
    """A loaded model that somebody holds; it stays loaded until `release`.

    template  None if the file has no chat template
    context   most tokens of a prompt and its answer together
    """

    def __init__(self, pool: Pool, held: Held) -> None:
        self._pool = pool
        self._held = held
        self._is_held = True

    @property
    def info(self) -> ModelInfo:
        return self._held.info

    @property
    def tokenizer(self) -> Tokenizer:
        return self._held.worker.loaded.tokenizer

    @property
    def template(self) -> ChatTemplate | None:
        worker = self._held.worker
        return worker.loaded.template if isinstance(worker, Worker) else None

    @property
    def context(self) -> int:
        return self._held.worker.context

    @property
    def device_name(self) -> str:
        return self._held.worker.loaded.device.name

    def generate(self, request: Request) -> Stream:
        """Begin an answer. RequestError, ContextFull or ServerBusy at once, before any event."""
        worker = self._held.worker
        if not isinstance(worker, Worker):
            raise UnsupportedModel(
                f"{self.info.name} writes no text",
                cause=f"its architecture, {self.info.family}, makes embeddings",
                next="choose another model: exosuit models",
            )
        self._pool.hold(self._held)
        try:
            return worker.generate(request)
        except BaseException:
            self._pool.release(self._held)
            raise

    async def embed(self, inputs: list[list[int]]) -> NDArray[np.float32]:
        """[n, width], pooled and normalised as the model says; UnsupportedModel if it is none."""
        worker = self._held.worker
        if isinstance(worker, Worker):
            raise UnsupportedModel(
                f"{self.info.name} makes no embeddings",
                cause=f"its architecture, {self.info.family}, is one that writes text",
                next="exosuit pull all-minilm   (an embedding model)",
            )
        return await worker.embed(inputs)

    def release(self) -> None:
        """Start the keep-alive clock; a second call does nothing."""
        if self._is_held:
            self._is_held = False
            self._pool.release(self._held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Service:
    """Owns devices and loaded models. Made and used on one event loop.

    metrics  what was counted so far
    """

    def __init__(self, setup: Setup) -> None:
        self.metrics = Metrics()
        self._setup = setup
        own = setup.model if isinstance(setup.model, Path) else None
        self._catalogue = Catalogue(setup.store, own)
        self._pool = Pool(Devices(setup.devices, setup.opener), setup.policy, self.metrics)
        self._started = time.monotonic()
        self._is_draining = False

    @property
    def is_draining(self) -> bool:
        """No new models are opened; what runs is finished."""
        return self._is_draining

    async def open(
        self, name: str, *, keep_alive_s: float | None = None, context: int | None = None
    ) -> ServedModel:
        """The model, loaded if it is not; "" is the default model.

        keep_alive_s  how long it stays loaded after its last release: 0 not at all, infinity for
                      ever, None as the server was told
        Raises ModelNotFound, DoesNotFit and the other ModelErrors, ServerBusy.
        """
        if self._is_draining:
            raise ServerBusy(
                "the server is ending",
                cause="it was told to stop and only finishes what it has begun",
                next="ask again in a moment, if it is started anew",
                retry_after_s=2,
            )
        try:
            info = self.find(name)
        except ModelNotFound:
            held = self._pool.find((name or self.default_name).removesuffix(":latest"))
            if held is None:  # a loaded model needs its file no more
                raise
            info = held.info
        return ServedModel(self._pool, await self._pool.open(info, keep_alive_s, context))

    def catalogue(self) -> list[ModelInfo]:
        """The models of the store."""
        return self._catalogue.all()

    def find(self, name: str) -> ModelInfo:
        """One of them; "name:latest" is "name". ModelNotFound with the nearest name."""
        return self._catalogue.find(name or self.default_name)

    @property
    def default_name(self) -> str:
        """What "" means."""
        model = self._setup.model
        if isinstance(model, Path):
            return self._catalogue.name_of(model)
        return model or DEFAULT_MODEL

    def loaded(self) -> list[LoadedInfo]:
        return self._pool.loaded()

    async def unload(self, name: str) -> bool:
        """Unload once its last holder releases it; False if it is not loaded."""
        return self._pool.unload(self.find(name).name)

    def place(self, name: str, device: str) -> None:
        """Have a model loaded on one of the server's devices, if it fits there, from now on."""
        names = [row.name for row in self._pool.devices.describe()]
        if device not in names:
            raise UsageError(
                f"the server has no device {device[:80]!r}",
                cause=f"it was started with {', '.join(names)}",
                next="exosuit list, then start the server with --device NAME",
                device=device,
            )
        self._pool.prefer(self.find(name).name, device)

    def pull(self, name: str) -> AsyncIterator[PullProgress]:
        """Fetch a model into the store; the iteration ends when it is there.

        Leaving it early ends the download; what has arrived is kept.
        """
        return watched(lambda progress: pull(name, self._setup.store, progress=progress))

    async def copy(self, source: str, target: str) -> None:
        """A second name for a model."""
        info = self.find(source)
        name = checked_name(target.removesuffix(":latest"))
        await asyncio.to_thread(self._setup.store.add, info.path, name)

    async def delete(self, name: str) -> None:
        """Remove a model of the store; it is unloaded first."""
        info = self.find(name)
        if info.name not in self._setup.store:
            raise UsageError(
                f"{info.name} is not in the store",
                cause="the server was started with this file, which stays where it is",
                next="exosuit models",
            )
        self._pool.unload(info.name)
        await asyncio.to_thread(self._setup.store.remove, info.name)

    def status(self) -> Status:
        loaded = self.loaded()
        return Status(
            version=version("exosuit"),
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started,
            draining=self._is_draining,
            devices=self._pool.devices.describe(),
            loaded=loaded,
            active=sum(row.active for row in loaded),
            waiting=sum(row.waiting for row in loaded),
            tokens_per_second=self.metrics.sampled_rate.per_second(),
            prefill_per_second=self.metrics.prompt_rate.per_second(),
            requests_total=self.metrics.total_requests(),
            findings=self._setup.findings(),
        )

    async def drain(self, most_s: float) -> bool:
        """Open no more and wait until nobody holds a model, at most `most_s`; says whether so."""
        self._is_draining = True
        deadline = time.monotonic() + most_s
        while self._pool.holders and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self._pool.holders

    async def close(self, drain_s: float) -> None:
        """Take no more, let what runs go on for `drain_s`, then end it; frees all devices."""
        if not await self.drain(drain_s):
            log.warning("answers were cut off", extra={"holders": self._pool.holders})
        await self._pool.close()
