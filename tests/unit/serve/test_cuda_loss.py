"""A card behind libcuda dies at work: answers go on at the host, and the server says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.softcard.libcuda import Libcuda
from tests.unit.serve.rooms import GREEDY, Rooms, answer, cpu, serve

from exosuit.driver.cuda import CudaDevice
from exosuit.engine.request import Request


@pytest.mark.slow
def test_answers_go_on_at_the_host_when_the_context_is_dead(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, names=("small",))
    fake = Libcuda(tmp_path / "translated", memory_bytes=256 << 20)
    asked = [Request(tuple(range(5 + k, 12 + 2 * k)), GREEDY, 6) for k in range(2)]

    def opener(name: str):
        return cpu() if name == "cpu" else CudaDevice(fake.library(), is_present=fake.is_present)

    async def work(service):
        async with await service.open("") as model:
            assert model.device_name == "cuda:0"
            streams = [model.generate(request) for request in asked]
            first = await anext(streams[0])
            assert first.token is not None
            fake.sticky = 700  # an illegal address: everything fails with it from now on
            found = await asyncio.gather(*(answer(stream) for stream in streams[1:]))
            rest = [e.token.token async for e in streams[0] if e.token is not None]
            assert model.device_name == "cpu"
            lost = service.status().devices[0]
            assert (lost.state, "not its own" in lost.why) == ("lost", True)
            return [[first.token.token, *rest], *found]

    service = rooms.service(devices=["cuda:0", "cpu"], opener=opener, parallel=2, context=128)
    found = serve(service, work, 240)
    fake.close()
    assert found == [rooms.alone(request) for request in asked]
    assert not fake.misuses
