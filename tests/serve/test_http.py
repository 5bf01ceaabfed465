"""What is under the dialects: clients that leave, dawdle, lie or shout; keys; health; the log."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.serve.conftest import SMOLLM2, STORIES, Served, serving
from tests.serve.malformed import MODEL, Connection, Malformed

from exosuit.models.store import Store
from exosuit.serve.patience import PatientProtocol
from exosuit.settings import Settings

LONG = {
    "model": SMOLLM2,
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 2000,
    "logit_bias": {"0": -100, "2": -100},  # its end tokens: it goes on
    "seed": 1,
}


def active(http: httpx.Client) -> int:
    status = http.get("/exosuit/status").json()
    return status["active"] + status["waiting"]


def wait_until_idle(http: httpx.Client, patience_s: float = 5.0) -> None:
    deadline = time.monotonic() + patience_s
    while active(http):
        assert time.monotonic() < deadline, "somebody still works for a client that left"
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("n", [1, 3])
def test_work_ends_when_the_client_leaves(http: httpx.Client, stream: bool, n: int) -> None:
    wait_until_idle(http)
    where = urlsplit(str(http.base_url))
    body = json.dumps(LONG | {"stream": stream, "n": n}).encode()
    with socket.create_connection((where.hostname, where.port)) as connection:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        )
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        if stream:
            assert b"200 OK" in connection.recv(4096)
        deadline = time.monotonic() + 10
        while active(http) < n:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    wait_until_idle(http, 2.0)


def test_headers_of_a_stream_come_at_once(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-request-id"].startswith("req_")
        first = next(response.iter_lines())
        assert first.startswith("data: {")
    wait_until_idle(http)


def test_a_stream_is_framed_as_it_should_be(http: httpx.Client) -> None:
    short = LONG | {"stream": True, "max_tokens": 3, "stream_options": {"include_usage": True}}
    text = http.post("/v1/chat/completions", json=short).text
    events = text.split("\n\n")
    assert events[-1] == ""
    assert events[-2] == "data: [DONE]"
    assert all(event.startswith("data: ") for event in events[:-1])
    usage = json.loads(events[-3].removeprefix("data: "))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    lines = http.post(
        "/api/chat", json={"model": SMOLLM2, "messages": LONG["messages"],
                           "options": {"num_predict": 3}},
    ).text.split("\n")  # fmt: skip
    assert lines[-1] == ""
    assert [json.loads(line)["done"] for line in lines[:-1]][-1] is True
    message = {"model": SMOLLM2, "messages": LONG["messages"], "max_tokens": 3, "stream": True}
    for event in http.post("/v1/messages", json=message).text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_what_curl_sends_without_thinking(http: httpx.Client) -> None:
    """`curl -d` says that it sends a form."""
    answer = http.post(
        "/api/generate",
        content=json.dumps({"model": STORIES, "prompt": "Once", "options": {"num_predict": 2}}),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 200


def test_paths_and_methods_that_are_not_there(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").json()["error"]["message"] == "there is nothing at /v1/nothing"
    assert http.get("/api/nothing").json() == {"error": "there is nothing at /api/nothing"}
    answer = http.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert http.post("/v1/messages", content="{").json()["type"] == "error"


def test_health_and_numbers(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ok"}
    assert "exosuit_requests_total" in http.get("/metrics").text


def test_text_becomes_tokens_and_comes_back(http: httpx.Client) -> None:
    text = "Hello, wörld! <|im_end|> 🦜"
    told = http.post("/tokenize", json={"content": text, "model": SMOLLM2, "with_pieces": True})
    pieces = told.json()["tokens"]
    assert any(isinstance(piece["piece"], list) for piece in pieces)  # half an emoji
    ids = [piece["id"] for piece in pieces]
    assert 2 in ids
    assert http.post("/detokenize", json={"tokens": ids, "model": SMOLLM2}).json() == {
        "content": text
    }
    plain = http.post(
        "/tokenize", json={"content": text, "model": SMOLLM2, "parse_special": False}
    ).json()["tokens"]
    assert 2 not in plain
    wrong = http.post("/detokenize", json={"tokens": [10**6], "model": SMOLLM2})
    assert wrong.status_code == 400


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    monkeypatch.setattr(PatientProtocol, "head_s", 0.3)

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def run() -> None:
        config = uvicorn.Config(
            app, port=0, http=PatientProtocol, log_config=None, lifespan="off", timeout_keep_alive=9
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def closed_after(*pieces: bytes) -> float:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            start = time.monotonic()
            for piece in pieces:
                if reader.at_eof():
                    break
                writer.write(piece)
                await asyncio.sleep(0.1)
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return time.monotonic() - start

        whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        assert 0.2 < await closed_after() < 2
        assert await closed_after(*[b"G"] * 40) < 3
        assert await closed_after(whole, b"G", b"E") < 3
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):  # who asks in time may stay
            await asyncio.sleep(0.2)
            writer.write(whole)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        server.should_exit = True
        await serving

    asyncio.run(run())


def test_malformed_requests_do_no_harm(served: Served) -> None:
    """A sample of `benchmarks/serve_fuzz.py`."""
    where = urlsplit(served.address)

    async def run() -> set[int]:
        supply = Malformed(seed=20261124)
        seen: set[int] = set()

        async def work() -> None:
            connection = Connection(where.hostname or "", where.port or 80)
            for _ in range(200):
                seen.add(await connection.send(supply.next()))
            connection.close()

        await asyncio.gather(*(work() for _ in range(4)))
        return seen

    seen = asyncio.run(run())
    assert {200, 400} <= seen
    assert not {status for status in seen if status >= 500 and status != 503}


def test_keys_and_prompts_are_not_logged(shared: Path, tmp_path: Path) -> None:
    store = Store(Settings(home=str(tmp_path)).model_store)
    store.add(shared / "models/stories260k/stories260K-q8_0.gguf", MODEL, link=True)
    key, secret = "k3y-of-mine", "Grandmother's soup"
    with serving(tmp_path, "--model", MODEL, "--api-key", key) as server:
        with httpx.Client(base_url=server.address, headers={"x-api-key": key}) as client:
            ask = {"model": MODEL, "prompt": secret, "max_tokens": 2}
            assert client.post("/v1/completions", json=ask).status_code == 200
            assert client.post("/v1/completions", json=ask | {"n": secret}).status_code == 400
            assert client.post("/v1/completions", json=ask | {"model": "x"}).status_code == 404
            client.headers["x-api-key"] = "wr0ng-key"
            assert client.post("/v1/completions", json=ask).status_code == 401
            assert client.get("/health").status_code == 200
        log = server.log.read_text()
    assert "/v1/completions" in log
    assert not re.search(f"{key}|wr0ng-key|soup", log)
