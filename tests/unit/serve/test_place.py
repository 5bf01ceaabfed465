"""Which of the server's devices a model is loaded on, when somebody says."""

from __future__ import annotations

import pytest
from tests.unit.serve.rooms import FailingDevice, Rooms, answer, cpu, serve
from tests.unit.serve.test_service import request

from exosuit.errors import ModelNotFound, UsageError


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Rooms:
    return Rooms(tmp_path_factory.mktemp("rooms"))


def two(name: str):
    return FailingDevice(name, 1 << 30) if name == "card:0" else cpu()


def test_a_model_goes_where_it_is_told(rooms):
    async def work(service):
        places = []
        for wanted in ("", "cpu", "card:0", "card:0", "cpu"):
            if wanted:
                service.place("small", wanted)
            async with await service.open("small") as model:
                places.append(model.device_name)
                assert len(await answer(model.generate(request(3)))) == 10
        async with await service.open("other") as model:
            places.append(model.device_name)
        return places

    places = serve(rooms.service(("card:0", "cpu"), two), work)
    assert places == ["card:0", "cpu", "card:0", "card:0", "cpu", "card:0"]


def test_an_answer_under_way_is_finished_where_it_is(rooms):
    async def work(service):
        async with await service.open("small") as model:
            stream = model.generate(request(3, tokens=40))
            service.place("small", "cpu")
            assert len(await answer(stream)) == 40
            assert model.device_name == "card:0"
        async with await service.open("small") as model:
            return model.device_name

    assert serve(rooms.service(("card:0", "cpu"), two), work) == "cpu"


def test_a_place_that_is_none(rooms):
    async def work(service):
        with pytest.raises(UsageError, match="no device 'tpu'"):
            service.place("small", "tpu")
        with pytest.raises(ModelNotFound):
            service.place("nobody", "cpu")

    serve(rooms.service(), work)


def test_a_device_that_was_lost_does_not_hold_it_up(rooms):
    def lost(name: str):
        return FailingDevice(name, 0) if name == "card:0" else cpu()

    async def work(service):
        service.place("small", "card:0")
        async with await service.open("small") as model:
            return model.device_name

    assert serve(rooms.service(("cpu", "card:0"), lost), work) == "cpu"
