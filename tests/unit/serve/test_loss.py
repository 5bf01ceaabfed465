"""A device lost under the service: answers go on, or end with the reason; nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.serve.rooms import (
    FailingDevice,
    Rooms,
    answer,
    cpu,
    lost,
    request,
    serve,
    told,
)

from exosuit.engine.request import Request
from exosuit.errors import CardBusy, CardHung, ExosuitError
from exosuit.serve.metrics import Metrics


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Rooms:
    return Rooms(tmp_path_factory.mktemp("rooms"))


class Bench:
    """Hands out devices by name and remembers them."""

    def __init__(self, **steps: int) -> None:
        self.steps = steps
        self.opened: list[str] = []

    def __call__(self, name):
        self.opened.append(name)
        if name == "cpu":
            return cpu()
        if self.steps[name] < 0:
            raise lost(name)
        return FailingDevice(name, self.steps[name])


@pytest.mark.parametrize("extra", [1, 2, 3, 7, 20, 41])
def test_fifty_streams_go_on_where_they_were_when_the_device_is_lost(rooms, extra):
    """At prompts, at first tokens, in the middle; eight at a time, the others wait."""
    asked = [
        request(k, prompt=3 + 7 * k % 80, tokens=5 + k % 11, temperature=k % 2, seed=k, top_k=0)
        for k in range(50)
    ]
    bench = Bench(card=loading_steps(rooms) + extra)

    async def work(service):
        async with await service.open("") as model:
            assert model.device_name == "card"
            found = await asyncio.gather(*(answer(model.generate(r)) for r in asked))
            assert model.device_name == "cpu"
            assert [row.state for row in service.status().devices] == ["lost", "ready"]
            assert b'exosuit_device_losses_total{device="card"} 1.0' in service.metrics.exposition()
            return found

    found = serve(rooms.service(devices=["card", "cpu"], opener=bench), work)
    assert found == expected(rooms, asked)


def loading_steps(rooms, known: dict[int, int] = {}) -> int:  # noqa: B006
    """Replays that loading the model takes."""
    if id(rooms) not in known:
        device = FailingDevice("card", 10**9)

        async def work(service):
            (await service.open("")).release()

        serve(rooms.service(devices=["card"], opener=lambda name: device), work)
        known[id(rooms)] = 10**9 - device.left
    return known[id(rooms)]


def expected(rooms, asked, known: dict[Request, list[int]] = {}) -> list[list[int]]:  # noqa: B006
    keys = [(r.prompt, r.max_tokens, r.sampling.temperature, r.sampling.seed) for r in asked]
    for key, r in zip(keys, asked, strict=True):
        if key not in known:
            known[key] = rooms.alone(r)
    return [known[key] for key in keys]


def test_a_device_lost_while_loading_or_booting_is_passed_over(rooms):
    bench = Bench(dead=-1, dying=3)

    async def work(service):
        async with await service.open("") as model:
            assert model.device_name == "cpu"
            rows = {row.name: row for row in service.status().devices}
            assert "stopped answering" in rows["dead"].why
            assert rows["dying"].state == "lost"
            return await answer(model.generate(request(1)))

    service = rooms.service(devices=["dead", "dying", "cpu"], opener=bench)
    assert serve(service, work) == rooms.alone(request(1))
    assert bench.opened == ["dead", "dying", "cpu"]


def test_a_device_that_another_process_holds_is_waited_for(rooms):
    """As a server that takes over does, until the old one has finished."""
    asked = 0

    def opener(name):
        nonlocal asked
        asked += 1
        if name == "card" and asked < 4:
            raise CardBusy("in use", cause="a test", next="wait")
        return FailingDevice(name, 10**9)

    async def work(service):
        async with await service.open("") as model:
            assert (model.device_name, asked) == ("card", 4)

    serve(rooms.service(devices=["card", "cpu"], opener=opener, busy_s=10), work)


def test_a_device_that_came_back_is_used_again(rooms, monkeypatch):
    monkeypatch.setattr("exosuit.serve.devices.FORGIVEN_AFTER_S", 0.0)
    opened = []

    def opener(name):
        opened.append(name)
        return FailingDevice(name, 10**9) if name == "card" else cpu()

    async def work(service):
        async with await service.open("") as model:
            device = model._held.worker.loaded.device._shared.device
            device.left = 0
            assert await answer(model.generate(request(1))) == rooms.alone(request(1))
        await service.unload("")
        async with await service.open("") as model:
            assert model.device_name == "card"
            return await answer(model.generate(request(2)))

    service = rooms.service(devices=["card", "cpu"], opener=opener)
    assert serve(service, work) == rooms.alone(request(2))
    assert opened.count("card") >= 2


def test_every_model_of_a_lost_device_moves(rooms):
    async def work(service):
        first, second = await service.open("small"), await service.open("other")
        device.left = 12
        found = await asyncio.gather(
            *(answer(m.generate(request(k, tokens=20))) for k in range(4) for m in (first, second))
        )
        assert (first.device_name, second.device_name) == ("cpu", "cpu")
        first.release()
        second.release()
        return found

    device = FailingDevice("card", 10**9)
    service = rooms.service(
        devices=["card", "cpu"], opener=lambda name: device if name == "card" else cpu()
    )
    expected = [
        rooms.alone(request(k, tokens=20), name) for k in range(4) for name in ("small", "other")
    ]
    assert serve(service, work) == expected


def test_without_another_device_every_answer_ends_with_the_error_and_the_service_lives(rooms):
    bench = Bench(card=loading_steps(rooms) + 6)

    async def work(service):
        model = await service.open("")
        streams = [told(model, request(k, tokens=50)) for k in range(20)]
        for problem in await asyncio.gather(*streams):
            assert isinstance(problem, CardHung)
            assert "no other could take over" in problem.what
        model.release()
        await asyncio.sleep(0.1)
        assert service.loaded() == []
        with pytest.raises(CardHung):
            await service.open("")
        assert service.status().devices[0].state == "lost"

    serve(rooms.service(devices=["card"], opener=bench), work)


def test_who_still_holds_a_model_that_failed_is_told_at_once(rooms):
    async def work(service):
        model = await service.open("")
        device.left = 0
        assert isinstance(await told(model, request(1)), CardHung)
        for _ in range(50):  # while its thread ends, and when it has
            assert isinstance(await told(model, request(2)), CardHung)
            await asyncio.sleep(0.002)
        model.release()

    device = FailingDevice("card", 10**9)
    serve(rooms.service(devices=["card"], opener=lambda name: device), work)


def test_a_fault_of_our_own_ends_the_answers_and_not_the_service(rooms, monkeypatch):
    async def work(service):
        model = await service.open("")
        finished, faults = Metrics.step, 0

        def step(self, *arguments):
            nonlocal faults
            faults += 1
            if faults == 3:
                raise KeyError("a mistake")
            finished(self, *arguments)

        monkeypatch.setattr(Metrics, "step", step)
        for problem in await asyncio.gather(
            *(told(model, request(k, tokens=50)) for k in range(9))
        ):
            assert isinstance(problem, ExosuitError)
            assert "exosuit itself failed" in problem.what
        model.release()
        async with await service.open("") as anew:
            return await answer(anew.generate(request(2)))

    assert serve(rooms.service(), work) == rooms.alone(request(2))


def test_a_lost_device_that_was_idle_is_noticed_by_the_next_request(rooms):
    async def work(service):
        async with await service.open("") as model:
            device.left = 0
            return await answer(model.generate(request(4)))

    device = FailingDevice("card", 10**9)
    service = rooms.service(
        devices=["card", "cpu"], opener=lambda name: device if name == "card" else cpu()
    )
    assert serve(service, work) == rooms.alone(request(4))
