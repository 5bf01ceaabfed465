"""A service over small random models, and devices that fail on schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tests.peers.random_models import SMALL, write_model

from exosuit.driver.cpu import CpuDevice
from exosuit.driver.device import Device, Launch, Replay
from exosuit.engine.batch import Sampling
from exosuit.engine.open import open_model
from exosuit.engine.request import Request
from exosuit.errors import CardHung, ExosuitError
from exosuit.kernel import Target
from exosuit.models.store import Store
from exosuit.serve.pool import Policy
from exosuit.serve.service import ServedModel, Service, Setup, Stream

T = TypeVar("T")
GREEDY = Sampling(temperature=0)


def lost(name: str = "card:0") -> CardHung:
    return CardHung(f"{name} stopped answering", cause="a test pulled it", next="exosuit doctor")


def cpu(_: str = "cpu") -> CpuDevice:
    return CpuDevice(Target.host().name, 1)


class FailingDevice(CpuDevice):
    """A host that calls itself a card, and is lost after `steps` replays; then everything fails."""

    def __init__(self, name: str, steps: int, memory_bytes: int | None = None) -> None:
        super().__init__(Target.host().name, 1)
        self.name = name
        self.left = steps
        self._memory_bytes = memory_bytes

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes or super().memory_bytes

    def check(self) -> None:
        if self.left <= 0:
            raise lost(self.name)

    def prepare(self, launches: Sequence[Launch]) -> Replay:
        self.check()
        return _Counting(self, super().prepare(launches))

    def copy_in(self, region: Any, data: Any) -> None:
        self.check()
        super().copy_in(region, data)

    def copy_out(self, region: Any, dtype: Any) -> Any:
        self.check()
        return super().copy_out(region, dtype)


class _Counting:
    def __init__(self, device: FailingDevice, replay: Replay) -> None:
        self._device, self._replay = device, replay

    def run(self) -> None:
        self._device.check()
        self._device.left -= 1
        self._replay.run()

    def close(self) -> None:
        self._replay.close()


class Rooms:
    """Models in a store, opened as services.

    folder  a temporary one; what is compiled is kept beside it, for all tests of the run
    """

    def __init__(self, folder: Path, names: Sequence[str] = ("small", "other")) -> None:
        self.folder = folder
        self.cache = folder.parent / "kernels"
        self._host = cpu()  # keeps the code that it has loaded; with one thread there are no others
        self.store = Store(folder / "models")
        for seed, name in enumerate(names):
            shape = replace(SMALL["llama"], n_layers=1)
            path = write_model(folder / f"{name}.gguf", shape, "F32", seed=seed)
            self.store.add(path, name, link=True)

    def service(
        self,
        devices: Sequence[str] = ("cpu",),
        opener: Callable[[str], Device] = cpu,
        model: str | Path | None = "small",
        **policy: Any,
    ) -> Service:
        chosen = {"parallel": 8, "context": 512, "cache": self.cache} | policy
        return Service(Setup(self.store, devices, opener, Policy(**chosen), model))

    def alone(self, request: Request, name: str = "small") -> list[int]:
        """What the model answers without a server."""
        loaded = open_model(self.store.find(name), self._host, self.cache, context=512)
        try:
            generation = loaded.engine.submit(request)
            list(loaded.engine.follow(generation))
            return generation.tokens
        finally:
            loaded.close()


def serve(
    service: Service, work: Callable[[Service], Coroutine[Any, Any, T]], limit_s: float = 60
) -> T:
    """Run `work` on a loop of its own, and close the service."""

    async def main() -> T:
        try:
            return await asyncio.wait_for(work(service), limit_s)
        finally:
            await asyncio.wait_for(service.close(0), 20)

    return asyncio.run(main())


def request(salt: int, prompt: int = 12, tokens: int = 10, **sampling: Any) -> Request:
    """A prompt of so many tokens, none like another."""
    ids = tuple((salt * 37 + k * k * 11) % 500 + 2 for k in range(prompt))
    return Request(ids, replace(GREEDY, **sampling), tokens)


async def answer(stream: Stream) -> list[int]:
    """All of it; checks that events and generation agree."""
    tokens: list[int] = []
    text = ""
    async for event in stream:
        text += event.text
        if event.token is not None:
            tokens.append(event.token.token)
    assert tokens == stream.generation.tokens
    assert text == stream.generation.text
    return tokens


async def told(model: ServedModel, request: Request) -> list[int] | ExosuitError:
    """The tokens, or the error that the answer ended with."""
    try:
        return await answer(model.generate(request))
    except ExosuitError as problem:
        return problem
