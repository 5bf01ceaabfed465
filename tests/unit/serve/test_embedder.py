"""Embedding models in the service: in company, beside models that write, on devices that fail."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.peers.bert_models import BertShape, write_bert
from tests.unit.serve.rooms import FailingDevice, Rooms, answer, cpu, serve
from tests.unit.serve.test_service import request

from exosuit.engine.embed import open_embedding_model
from exosuit.errors import CardHung, ContextFull, ServerBusy, UnsupportedModel

INPUTS = [[2, 7, 9, 3], [2, *range(5, 40), 3], [2, 3]]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Rooms:
    rooms = Rooms(tmp_path_factory.mktemp("rooms"), ["small"])
    rooms.store.add(write_bert(rooms.folder / "bert.gguf", BertShape()), "vectors", link=True)
    return rooms


@pytest.fixture(scope="module")
def expected(rooms) -> np.ndarray:
    device = cpu()
    model = open_embedding_model(rooms.store.find("vectors"), device, rooms.cache)
    found = model.embed(INPUTS)
    model.close()
    device.close()
    return found


def test_vectors_are_those_of_the_model_alone(rooms, expected):
    async def work(service):
        async with await service.open("vectors") as model, await service.open("small") as writer:
            (row, _) = sorted(service.loaded(), key=lambda row: row.name != "vectors")
            assert (row.context, row.device) == (64, "cpu")
            assert row.device_bytes > 0
            assert model.context == 64
            assert model.template is None
            stream = writer.generate(request(1))
            found = await asyncio.gather(*(model.embed(INPUTS) for _ in range(20)))
            assert len(await answer(stream)) == 10
            return found

    for vectors in serve(rooms.service(), work):
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_each_kind_refuses_the_others_work(rooms):
    async def work(service):
        async with await service.open("vectors") as model:
            with pytest.raises(UnsupportedModel, match="writes no text"):
                model.generate(request(1))
        async with await service.open("small") as model:
            with pytest.raises(UnsupportedModel, match="makes no embeddings"):
                await model.embed(INPUTS)

    serve(rooms.service(), work)


def test_an_input_that_is_too_long_harms_nobody_else(rooms, expected):
    async def work(service):
        async with await service.open("vectors") as model:
            with pytest.raises(ContextFull):
                await model.embed([[5] * 65])
            return await model.embed(INPUTS)

    np.testing.assert_allclose(serve(rooms.service(), work), expected, atol=1e-6)


def test_a_request_that_is_given_up_is_not_worked_on(rooms, expected):
    async def work(service):
        async with await service.open("vectors") as model:
            tasks = [asyncio.ensure_future(model.embed(INPUTS)) for _ in range(30)]
            await asyncio.sleep(0)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(task.cancelled() for task in tasks) == 29
            return await model.embed(INPUTS)

    np.testing.assert_allclose(serve(rooms.service(), work), expected, atol=1e-6)


def test_too_many_waiting(rooms):
    async def work(service):
        async with await service.open("vectors") as model:
            tasks = [asyncio.ensure_future(model.embed(INPUTS * 20)) for _ in range(12)]
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert any(isinstance(f, ServerBusy) for f in found)
            assert any(isinstance(f, np.ndarray) for f in found)

    serve(rooms.service(most_waiting=2), work)


def test_a_lost_device_costs_no_request(rooms, expected):
    """Counted from loading on, so the card is lost at some point of loading or of answering."""
    for steps in (3, 20, 30, 45):
        card = FailingDevice("card:0", steps)

        def opener(name: str, card=card):
            return card if name == "card:0" else cpu()

        async def work(service):
            async with await service.open("vectors") as model:
                vectors = [await model.embed(INPUTS) for _ in range(60)]
                return vectors, model.device_name

        vectors, device = serve(rooms.service(("card:0", "cpu"), opener), work)
        for found in vectors:
            np.testing.assert_allclose(found, expected, atol=1e-6)
        assert device == "cpu"
        assert card.left == 0


def test_without_another_device_the_request_ends_with_the_reason(rooms):
    async def work(service):
        async with await service.open("vectors") as model:
            with pytest.raises(CardHung, match="stopped answering"):
                await asyncio.gather(*(model.embed(INPUTS) for _ in range(100)))

    def opener(name: str):
        return FailingDevice(name, 60)

    serve(rooms.service(("card:0",), opener), work)
