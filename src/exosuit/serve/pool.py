"""The models that are loaded: which, where, since when, and which must go.

A model is loaded when somebody asks for it, stays while anybody holds it and for its keep-alive
time after, and is unloaded early when another needs its memory. Models that fit side by side stay
side by side. Everything is decided on the event loop; loading itself is done by the thread of the
model's worker, one model at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from exosuit.advise.footprint import Footprint, from_header
from exosuit.advise.placing import placed_by
from exosuit.driver.device import Device
from exosuit.engine.batch import PAGE_TOKENS
from exosuit.engine.embed import EmbeddingModel, open_embedding_model
from exosuit.engine.open import LoadedModel, open_model
from exosuit.engine.runner import DEFAULT_CONTEXT
from exosuit.errors import CardBusy, DoesNotFit, ExosuitError, ServerBusy
from exosuit.kernel import Target
from exosuit.models.gguf import GgufFile
from exosuit.ops.packing import packing_for
from exosuit.serve.devices import LOST, Devices, Lease, SharedDevice
from exosuit.serve.embedder import EmbeddingWorker
from exosuit.serve.facts import LoadedInfo, ModelInfo
from exosuit.serve.metrics import Metrics
from exosuit.serve.worker import Worker
from exosuit.units import MiB, human_bytes

log = logging.getLogger(__name__)

M = TypeVar("M")

RETRY_BUSY_S = 0.2


@dataclass(frozen=True)
class Policy:
    """How models are loaded and kept.

    parallel      answers of one model at a time
    context       tokens of one of them, unless a request asks for more
    keep_alive_s  how long a model stays that nobody holds; infinity for ever
    most_waiting  requests that may wait for one model
    cache         folder of compiled kernels
    busy_s        how long to wait for a device that another process holds
    """

    parallel: int = 16
    context: int = DEFAULT_CONTEXT
    keep_alive_s: float = 300.0
    most_waiting: int = 256
    cache: Path | None = None
    busy_s: float = 0.0


@dataclass(eq=False)
class Held:
    """A model in the pool.

    holders  how many hold it: open models and streams under way
    context  tokens of one sequence that it was loaded for
    """

    info: ModelInfo
    context: int
    keep_alive_s: float
    worker: Worker | EmbeddingWorker = field(init=False)
    holders: int = 0
    used: float = 0.0
    expires_at: float | None = None
    is_leaving: bool = False
    timer: asyncio.TimerHandle | None = None


class Pool:
    """Owns the workers. All methods are called on the event loop."""

    def __init__(self, devices: Devices, policy: Policy, metrics: Metrics) -> None:
        self.devices = devices
        self.policy = policy
        self._metrics = metrics
        metrics.watch(self.loaded)
        self._models: dict[str, Held] = {}
        self._all: set[Held] = set()  # also those that leave
        self._preferred: dict[str, str] = {}
        self._loading = threading.Lock()

    # Opening ------------------------------------------------------------------------------

    async def open(self, info: ModelInfo, keep_alive_s: float | None, context: int | None) -> Held:
        """The model, held once more by the caller; loaded first if it is not."""
        wanted = min(context or self.policy.context, info.context or math.inf)
        held = self._models.get(info.name)
        if held is not None and (held.context < wanted or held.info != info or held.worker.is_over):
            self._leave(held)
            held = None
        if held is None:
            held = self._begin(info, int(wanted))
        held.keep_alive_s = self.policy.keep_alive_s if keep_alive_s is None else keep_alive_s
        self.hold(held)
        try:
            await asyncio.shield(held.worker.ready)
        except ExosuitError:  # it could not be loaded
            self._forget(held)
            raise
        except BaseException:
            self.release(held)
            raise
        return held

    def hold(self, held: Held) -> None:
        held.holders += 1
        held.used = time.monotonic()
        held.expires_at = None
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None

    def release(self, held: Held) -> None:
        """One holder less; the last one starts the keep-alive clock."""
        held.holders -= 1
        held.used = time.monotonic()
        if held.holders:
            return
        if held.is_leaving or held.keep_alive_s <= 0:
            self._leave(held)
        elif math.isfinite(held.keep_alive_s):
            loop = asyncio.get_running_loop()
            held.expires_at = time.time() + held.keep_alive_s
            held.timer = loop.call_later(held.keep_alive_s, self._leave, held)

    def find(self, name: str) -> Held | None:
        return self._models.get(name)

    def unload(self, name: str) -> bool:
        """Unload when its last holder leaves; False if it is not loaded."""
        held = self._models.get(name)
        if held is None:
            return False
        self._leave(held)
        return True

    def prefer(self, name: str, device: str) -> None:
        """Load the model on this device first from now on; it leaves another when it may."""
        self._preferred[name] = device
        held = self._models.get(name)
        if held is not None and held.worker.is_loaded and held.worker.loaded.device.name != device:
            self._leave(held)

    def loaded(self) -> list[LoadedInfo]:
        return [self._describe(held) for held in sorted(self._all, key=lambda h: h.info.name)]

    @property
    def holders(self) -> int:
        return sum(held.holders for held in self._all)

    async def close(self) -> None:
        """End everything, wait for the threads, close the devices."""
        workers = [held.worker for held in self._all]
        for held in list(self._all):
            self._models.pop(held.info.name, None)
            if held.timer is not None:
                held.timer.cancel()
            held.worker.close()
        await asyncio.gather(*(asyncio.shield(worker.closed) for worker in workers))
        await asyncio.to_thread(self.devices.close)

    def _begin(self, info: ModelInfo, context: int) -> Held:
        loop = asyncio.get_running_loop()
        held = Held(info, context, self.policy.keep_alive_s)
        started = time.monotonic()

        def place(progress: Callable[[int, int], None]) -> LoadedModel:
            def load(device: Device, pages: int) -> LoadedModel:
                return open_model(
                    info.path, device, self.policy.cache, context=held.context,
                    sequences=self.policy.parallel, pages=pages, progress=progress,
                )  # fmt: skip

            return self._place(info, held.context, load, loop)

        def place_encoder(progress: Callable[[int, int], None]) -> EmbeddingModel:
            def load(device: Device, pages: int) -> EmbeddingModel:
                return open_embedding_model(info.path, device, self.policy.cache, progress=progress)

            return self._place(info, held.context, load, loop)

        def loaded(ready: asyncio.Future[None]) -> None:
            if ready.exception() is None:
                seconds = time.monotonic() - started
                self._metrics.loads.labels(info.name).observe(seconds)
                log.info(
                    "model loaded",
                    extra={
                        "model": info.name,
                        "device": held.worker.loaded.device.name,
                        "seconds": round(seconds, 3),
                    },
                )

        most_waiting = self.policy.most_waiting
        if info.capabilities == ("embedding",):
            held.worker = EmbeddingWorker(
                info.name, place_encoder, self._metrics, loop, most_waiting
            )
        else:
            held.worker = Worker(
                info.name, place, self._metrics, loop, most_waiting,
                leave=lambda: self.release(held),
            )  # fmt: skip
        held.worker.ready.add_done_callback(loaded)
        held.worker.closed.add_done_callback(lambda _: self._forget(held))
        self._models[info.name] = held
        self._all.add(held)
        return held

    def _leave(self, held: Held) -> None:
        """Out of the table now; closed once nobody holds it."""
        if self._models.get(held.info.name) is held:
            del self._models[held.info.name]
        held.is_leaving = True
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        if not held.holders:
            held.worker.close()

    def _forget(self, held: Held) -> None:
        self._all.discard(held)
        if self._models.get(held.info.name) is held:
            del self._models[held.info.name]

    def _describe(self, held: Held) -> LoadedInfo:
        worker, info = held.worker, held.info
        is_ready = worker.is_loaded
        return LoadedInfo(
            name=info.name,
            device=worker.loaded.device.name if is_ready else "",
            device_bytes=device_bytes(worker.loaded) if is_ready else 0,
            context=worker.context if is_ready else held.context,
            parallel=self.policy.parallel,
            progress=worker.progress,
            expires_at=held.expires_at,
            active=worker.active,
            waiting=worker.waiting,
            digest=info.digest,
            family=info.family,
            parameters=info.parameters,
            quantisation=info.quantisation,
        )

    # Placing, in a worker's thread ----------------------------------------------------------

    def _place(
        self,
        info: ModelInfo,
        context: int,
        load: Callable[[Device, int], M],
        loop: asyncio.AbstractEventLoop,
    ) -> M:
        """Load on the best device that holds it; see `worker.Place`.

        load  given a lease and the pages of the cache that fit
        """
        with self._loading:
            self.devices.forgive()
            problems: list[ExosuitError] = []
            preferred = self._preferred.get(info.name)
            for name in sorted(self.devices.usable(), key=lambda name: name != preferred):
                try:
                    shared = self._device(name)
                    need = _footprint(info, shared.target)
                    pages = self._room(shared, info, need, context, loop)
                    return self._load(shared, pages, load)
                except (*LOST, DoesNotFit, ServerBusy) as problem:
                    problems.append(problem)
                    log.warning(
                        "not on this device",
                        extra={"model": info.name, "device": name, "error": problem.what},
                    )
            if not problems:
                why = self.devices.why()
                assert why is not None, "no device is usable and none was lost"
                raise why
            raise problems[-1]

    def _load(self, shared: SharedDevice, pages: int, load: Callable[[Device, int], M]) -> M:
        lease = Lease(shared)
        try:
            return load(lease, pages)
        except BaseException:
            lease.close()
            raise

    def _device(self, name: str) -> SharedDevice:
        """The device; waits a while for one that another process holds."""
        deadline = time.monotonic() + self.policy.busy_s
        while True:
            try:
                return self.devices.get(name)
            except CardBusy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_BUSY_S)

    def _room(
        self,
        shared: SharedDevice,
        info: ModelInfo,
        need: Footprint,
        context: int,
        loop: asyncio.AbstractEventLoop,
    ) -> int:
        """Pages of the cache that fit, making room for at least one sequence by unloading.

        Raises DoesNotFit if the empty device is too small, ServerBusy if others use too much of it.
        """
        page_bytes = max(1, need.kv_bytes(PAGE_TOKENS))
        most = self.policy.parallel * -(-context // PAGE_TOKENS)
        least = -(-context // PAGE_TOKENS)
        rest = need.weight_bytes + workspace_bytes(need, self.policy.parallel)
        wanted = rest + least * page_bytes
        if wanted > shared.free_bytes + shared.used_bytes:
            raise DoesNotFit(
                f"{info.name} needs {human_bytes(wanted)} for {context} tokens; {shared.name} has"
                f" {human_bytes(shared.free_bytes + shared.used_bytes)} for it",
                cause=f"{human_bytes(need.weight_bytes)} are weights and"
                f" {human_bytes(least * page_bytes)} the cache of one conversation",
                next=f"exosuit plan {info.name}   (a smaller file, a shorter context, or a larger"
                " device)",
                needed=wanted,
                device=shared.name,
            )
        if wanted > shared.free_bytes:
            evicted = asyncio.run_coroutine_threadsafe(self._evict(shared, wanted), loop)
            evicted.result()
        if wanted > shared.free_bytes:
            raise ServerBusy(
                f"{info.name} needs {human_bytes(wanted)} on {shared.name}, where"
                f" {human_bytes(shared.free_bytes)} are free",
                cause="the models that are loaded there are being used",
                next="ask again when they are done, or unload one: exosuit stop MODEL",
                retry_after_s=10,
            )
        return min(most, (shared.free_bytes - rest) // page_bytes)

    async def _evict(self, shared: SharedDevice, wanted: int) -> None:
        """Unload what nobody holds, the longest unused first, until `wanted` bytes are free."""
        idle = [
            held
            for held in self._all
            if not held.holders and held.worker.is_loaded
            and held.worker.loaded.device.name == shared.name
        ]  # fmt: skip
        for held in sorted(idle, key=lambda held: held.used):
            if shared.free_bytes >= wanted:
                return
            log.info("unloaded to make room", extra={"model": held.info.name})
            self._leave(held)
            await asyncio.shield(held.worker.closed)


def workspace_bytes(need: Footprint, rows: int) -> int:
    """Activations, and what each row of logits takes: itself, and twice as much for sampling."""
    return need.workspace_bytes() + rows * 3 * 4 * need.vocabulary + 8 * MiB


def device_bytes(loaded: LoadedModel | EmbeddingModel) -> int:
    lease = loaded.device
    assert isinstance(lease, Lease)
    return lease.used_bytes


def _footprint(info: ModelInfo, target: str) -> Footprint:
    """What the model takes as it is packed for a target."""
    size_of = placed_by(packing_for(Target.named(target)))
    with GgufFile.open(info.path) as file:
        return from_header(info.name, file.metadata, file.tensors, size_of)
