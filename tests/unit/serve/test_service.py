"""The service: answers in company, cancellation, keeping and unloading, queues, draining."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time

import pytest
from tests.unit.serve.rooms import GREEDY, FailingDevice, Rooms, answer, cpu, request, serve

from exosuit.engine.request import Request
from exosuit.errors import (
    ContextFull,
    CorruptFile,
    DoesNotFit,
    ModelNotFound,
    RequestError,
    ServerBusy,
    UnsupportedModel,
    UsageError,
)
from exosuit.units import MiB


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Rooms:
    return Rooms(tmp_path_factory.mktemp("rooms"))


async def idle(service, seconds: float = 5.0) -> None:
    """Until no answer runs or waits."""
    deadline = time.monotonic() + seconds
    while any(row.active or row.waiting for row in service.loaded()):
        assert time.monotonic() < deadline, service.loaded()
        await asyncio.sleep(0.01)


# Answers ------------------------------------------------------------------------------------------


def test_forty_answers_at_once_are_those_of_each_alone(rooms):
    """More than there are places, drawn and greedy, short and long."""
    asked = [
        request(k, prompt=3 + 5 * k % 90, tokens=4 + k % 9, temperature=k % 2, seed=k, top_k=0)
        for k in range(40)
    ]

    async def work(service):
        async with await service.open("small") as model:
            return await asyncio.gather(*(answer(model.generate(r)) for r in asked))

    assert serve(rooms.service(), work) == [rooms.alone(r) for r in asked]


def test_two_models_answer_side_by_side(rooms):
    async def work(service):
        first, second = await asyncio.gather(service.open("small"), service.open("other:latest"))
        found = await asyncio.gather(
            *(answer(m.generate(request(k))) for k in range(6) for m in (first, second))
        )
        assert {row.name for row in service.loaded()} == {"small", "other"}
        assert service.status().devices[0].used_bytes == sum(
            row.device_bytes for row in service.loaded()
        )
        first.release()
        second.release()
        return found

    expected = [rooms.alone(request(k), name) for k in range(6) for name in ("small", "other")]
    assert serve(rooms.service(), work) == expected


def test_what_makes_no_sense_is_refused_before_any_event(rooms):
    async def work(service):
        async with await service.open("") as model:
            with pytest.raises(RequestError):
                model.generate(Request(()))
            with pytest.raises(ContextFull):
                model.generate(Request((1,) * 512))
            with pytest.raises(UnsupportedModel, match="embeddings"):
                await model.embed([[1, 2]])
            assert model.device_name == "cpu"
            assert model.context == 512
            return await answer(model.generate(request(1)))

    assert serve(rooms.service(), work) == rooms.alone(request(1))


def test_a_second_turn_finds_the_first_in_the_cache(rooms):
    async def work(service):
        async with await service.open("") as model:
            first = request(3, prompt=200)
            tokens = await answer(model.generate(first))
            second = Request((*first.prompt, *tokens, 5, 6, 7), GREEDY, 4)
            stream = model.generate(second)
            found = await answer(stream)
            assert stream.generation.usage.reused_tokens == 192
            return second, found

    second, found = serve(rooms.service(), work)
    assert found == rooms.alone(second)


# Leaving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "aclose", "task", "break", "drop"])
def test_leaving_an_answer_ends_its_work(rooms, how):
    async def work(service):
        async with await service.open("") as model:
            long = request(1, tokens=400)
            stream = model.generate(long)
            await anext(stream)
            generation = stream.generation
            if how == "cancel":
                stream.cancel()
            elif how == "aclose":
                await stream.aclose()
            elif how == "task":
                task = asyncio.ensure_future(answer(stream))
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif how == "break":
                async for _ in stream:
                    break
                del stream
            else:
                del stream
            gc.collect()
            await idle(service, 2)
            assert generation.finish_reason == "cancelled"
            assert len(generation.tokens) < 400
            if how in ("cancel", "aclose"):
                assert [event async for event in stream] == []
            return await answer(model.generate(request(2)))

    assert serve(rooms.service(), work) == rooms.alone(request(2))


def test_leaving_before_the_first_token_and_while_waiting(rooms):
    """Twenty want one place; most leave; the others still get their answers."""
    asked = [request(k, tokens=30) for k in range(20)]

    async def work(service):
        async with await service.open("") as model:
            streams = [model.generate(r) for r in asked]
            for stream in streams[1:18]:
                stream.cancel()
            del stream
            found = await asyncio.gather(*(answer(streams[k]) for k in (0, 18, 19)))
            await idle(service)
            return found

    expected = [rooms.alone(asked[k]) for k in (0, 18, 19)]
    assert serve(rooms.service(parallel=1), work) == expected


def test_a_full_queue_refuses_and_says_when_to_ask_again(rooms):
    async def work(service):
        async with await service.open("") as model:
            streams = [model.generate(request(k, tokens=400)) for k in range(4)]
            await asyncio.sleep(0.01)  # one of them has its place
            streams.append(model.generate(request(4)))
            with pytest.raises(ServerBusy) as refused:
                model.generate(request(5))
            assert refused.value.fields["retry_after_s"] >= 1
            assert b'exosuit_requests_refused_total{model="small"}' in service.metrics.exposition()
            for stream in streams:
                stream.cancel()
            await idle(service)
            return await answer(model.generate(request(5)))

    found = serve(rooms.service(parallel=1, most_waiting=4), work)
    assert found == rooms.alone(request(5))


# Keeping ------------------------------------------------------------------------------------------


def test_a_model_is_kept_for_a_while_after_its_last_holder(rooms):
    async def work(service):
        model = await service.open("", keep_alive_s=0.15)
        assert service.loaded()[0].expires_at is None
        stream = model.generate(request(1, tokens=20))
        model.release()
        model.release()
        assert len(await answer(stream)) == 20
        assert service.loaded()[0].expires_at == pytest.approx(time.time() + 0.15, abs=0.1)
        again = await service.open("", keep_alive_s=0.15)
        await asyncio.sleep(0.3)
        assert service.loaded(), "held: it stays"
        again.release()
        await asyncio.sleep(0.5)
        assert service.loaded() == []
        assert service.status().devices[0].used_bytes == 0
        (await service.open("", keep_alive_s=math.inf)).release()
        assert service.loaded()[0].expires_at is None
        assert await service.unload("small")
        assert not await service.unload("small")

    serve(rooms.service(), work)


def test_no_keep_alive_unloads_when_the_last_answer_is_done(rooms):
    async def work(service):
        model = await service.open("", keep_alive_s=0)
        streams = [model.generate(request(k, tokens=9)) for k in range(2)]
        model.release()
        assert [len(await answer(stream)) for stream in streams] == [9, 9]
        await asyncio.sleep(0.2)
        assert service.loaded() == []

    serve(rooms.service(), work)


def test_unloading_waits_for_answers_and_a_new_one_loads_anew(rooms):
    async def work(service):
        async with await service.open("") as model:
            stream = model.generate(request(1, tokens=60))
            await anext(stream)
            assert await service.unload("")
            async with await service.open("") as second:
                assert len(service.loaded()) == 2
                assert await answer(second.generate(request(2)))
            rest = [event async for event in stream]
            assert rest[-1].finish_reason == "length"
        await asyncio.sleep(0.2)
        assert len(service.loaded()) == 1

    serve(rooms.service(), work)


def test_a_longer_context_loads_anew_and_a_shorter_does_not(rooms):
    async def work(service):
        first = await service.open("", context=128)
        assert first.context == 128
        second = await service.open("", context=300)
        assert second.context == 300
        assert first.context == 128
        third = await service.open("", context=64)
        assert third.context == 300
        for model in (first, second, third):
            model.release()

    serve(rooms.service(context=128), work)


def test_opening_is_shared_and_may_be_left(rooms):
    async def work(service):
        waiting = [asyncio.ensure_future(service.open("")) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        models = await asyncio.gather(*waiting[1:])
        assert len(service.loaded()) == 1
        assert service.loaded()[0].progress == 1.0
        for model in models:
            model.release()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]

    serve(rooms.service(), work)


# Room ---------------------------------------------------------------------------------------------


def small_card(name: str) -> FailingDevice:
    """Room for one of the models with its workspace, not for two."""
    return FailingDevice(name, 10**9, memory_bytes=34 * MiB) if name != "cpu" else cpu()


def test_what_nobody_holds_makes_room(rooms):
    async def work(service):
        (await service.open("small", keep_alive_s=math.inf)).release()
        used = service.status().devices[0].used_bytes
        async with await service.open("other") as model:
            assert [row.name for row in service.loaded()] == ["other"]
            assert service.status().devices[0].used_bytes == pytest.approx(used, rel=0.05)
            assert await answer(model.generate(request(1)))
            with pytest.raises(ServerBusy, match="are free"):
                await service.open("small")
            assert await answer(model.generate(request(2)))

    service = rooms.service(devices=["card:0"], opener=small_card)
    serve(service, work)


def test_what_does_not_fit_goes_to_the_next_device(rooms):
    async def work(service):
        async with await service.open("small") as first, await service.open("other") as second:
            assert (first.device_name, second.device_name) == ("card:0", "cpu")

    serve(rooms.service(devices=["card:0", "cpu"], opener=small_card), work)


def test_what_fits_nowhere_is_refused_with_a_way_out(rooms):
    def tiny(name):
        return FailingDevice(name, 10**9, memory_bytes=2 * MiB)

    async def work(service):
        with pytest.raises(DoesNotFit) as refused:
            await service.open("small")
        assert "exosuit plan small" in refused.value.next
        assert service.loaded() == []
        with pytest.raises(DoesNotFit):
            await service.open("small")

    serve(rooms.service(devices=["card:0"], opener=tiny), work)


def test_fewer_pages_than_wanted_still_answer_everybody(rooms):
    """A device with room for some sixty pages, of the hundred and more that eight may need."""
    asked = [request(k, prompt=150, tokens=60) for k in range(10)]

    def tight(name):
        return FailingDevice(name, 10**9, memory_bytes=29 * MiB)

    async def work(service):
        async with await service.open("") as model:
            return await asyncio.gather(*(answer(model.generate(r)) for r in asked))

    service = rooms.service(devices=["card:0"], opener=tight, context=2048, parallel=64)
    assert serve(service, work) == [rooms.alone(r) for r in asked]


# The store ----------------------------------------------------------------------------------------


def test_names_are_names_of_the_store_only(rooms):
    async def work(service):
        assert [info.name for info in service.catalogue()] == ["other", "small"]
        info = service.find("SMALL:latest")
        assert (info.name, info.family, info.quantisation) == ("small", "llama", "F32")
        assert info.capabilities[0] == "completion"
        assert len(info.digest) == 64
        for name in (
            "smal", "../small", "/etc/passwd", str(info.path), "small.gguf", "a" * 500, "\x00",
            "small/../other", "hf:owner/repo", "https://example.com/x.gguf", "small\n",
        ):  # fmt: skip
            with pytest.raises(ModelNotFound):
                service.find(name)
        with pytest.raises(ModelNotFound) as refused:
            service.find("smal")
        assert refused.value.fields["suggestion"] == "small"

    serve(rooms.service(), work)


def test_a_file_outside_the_store_has_a_name_and_stays(rooms, tmp_path):
    path = rooms.folder / "small.gguf"
    link = tmp_path / "My Model.Q8.gguf"
    link.symlink_to(path)

    async def work(service):
        async with await service.open("") as model:
            assert model.info.name == "my-model.q8"
        async with await service.open("my-model.q8"):
            pass
        with pytest.raises(UsageError, match="not in the store"):
            await service.delete("my-model.q8")

    serve(rooms.service(model=link), work)


def test_copy_delete_and_damage(rooms):
    async def work(service):
        await service.copy("small", "second")
        async with await service.open("second") as model:
            assert await answer(model.generate(request(1))) == rooms.alone(request(1))
        await service.delete("second")
        with pytest.raises(ModelNotFound):
            service.find("second")
        with pytest.raises(UsageError):
            await service.copy("small", "../evil")
        with pytest.raises(UsageError, match="already"):
            await service.copy("small", "other")
        broken = rooms.store.root / "broken"
        broken.mkdir()
        (broken / "record.json").write_text("{}")
        with pytest.raises(CorruptFile):
            service.find("broken")
        assert [info.name for info in service.catalogue()] == ["other", "small"]
        (broken / "record.json").unlink()
        broken.rmdir()

    serve(rooms.service(), work)


def test_pull_tells_how_far_it_is_and_what_went_wrong(rooms):
    async def work(service):
        async for _ in service.pull(str(rooms.folder / "small.gguf")):
            pass
        assert "small" in [info.name for info in service.catalogue()]
        with pytest.raises(ModelNotFound):
            async for _ in service.pull("nobody-knows-this"):
                pass

    serve(rooms.service(), work)


# Ending -------------------------------------------------------------------------------------------


def test_closing_lets_answers_end_and_opens_no_more(rooms):
    async def work():
        service = rooms.service()
        model = await service.open("")
        stream = model.generate(request(1, tokens=100))
        model.release()
        task = asyncio.ensure_future(answer(stream))
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(service.close(20))
        await asyncio.sleep(0.01)
        with pytest.raises(ServerBusy):
            await service.open("")
        assert len(await task) == 100
        await closing
        assert service.loaded() == []

    asyncio.run(work())
    assert not [t for t in threading.enumerate() if t.name.startswith("engine")]


def test_closing_at_once_cuts_answers_off_and_frees_everything(rooms):
    async def work():
        service = rooms.service()
        model = await service.open("")
        streams = [model.generate(request(k, tokens=450)) for k in range(12)]
        await anext(streams[0])
        await service.close(0.05)
        assert service.loaded() == []
        for stream in streams:
            assert [event.finish_reason async for event in stream][-1] == "cancelled"

    asyncio.run(work())


def test_closing_while_loading(rooms):
    async def work():
        service = rooms.service()
        task = asyncio.ensure_future(service.open(""))
        await asyncio.sleep(0.01)
        await service.close(0)
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())
