"""A software card under the service: it answers, and when it is killed the host goes on."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.serve.rooms import GREEDY, Rooms, answer, cpu, serve

from exosuit.devices import open_card
from exosuit.engine.request import Request
from exosuit.settings import Settings
from exosuit.softcard.process import SoftLink

NAME = "soft:gfx1100"


@pytest.mark.slow
def test_answers_go_on_at_the_host_when_a_card_dies(tmp_path):
    """Six streams on emulated gfx1100; after some tokens the card's process is killed."""
    rooms = Rooms(tmp_path, names=("small",))
    link = SoftLink.start("gfx1100,vram=256M")
    asked = [Request(tuple(range(5 + k, 25 + 3 * k)), GREEDY, 12) for k in range(6)]

    def opener(name):
        if name == "cpu":
            return cpu()
        return open_card(link, Settings(home=str(tmp_path)))

    async def work(service):
        async with await service.open("") as model:
            assert model.device_name == NAME + ",vram=256M"
            streams = [model.generate(request) for request in asked]
            first = await anext(streams[0])
            assert first.token is not None
            crossed = service.status().devices[0].link
            assert crossed["writes"] > 0
            link._server.process.kill()
            found = await asyncio.gather(*(answer(stream) for stream in streams[1:]))
            rest = [e.token.token async for e in streams[0] if e.token is not None]
            assert model.device_name == "cpu"
            assert service.status().devices[0].state == "lost"
            return [[first.token.token, *rest], *found]

    service = rooms.service(
        devices=[NAME + ",vram=256M", "cpu"], opener=opener, parallel=4, context=128
    )
    try:
        found = serve(service, work, 240)
    finally:
        link.close()
    assert found == [rooms.alone(request) for request in asked]
