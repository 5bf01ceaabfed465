"""Who is let in: hosts, origins, keys, bodies. The guard alone, around an app that echoes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from exosuit.errors import UsageError
from exosuit.serve.safety import Guard, Rules, check_binding, is_loopback
from exosuit.serve.sending import Json

Headers = dict[str, str]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    body = message.get("body", b"").decode("utf-8", "replace")
    headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
    state = {"id": scope["state"]["request_id"]}
    await Json({"body": body, "type": headers.get("content-type"), **state})(scope, receive, send)


def ask(
    rules: Rules | None = None,
    path: str = "/v1/models",
    method: str = "GET",
    headers: Headers | None = None,
    body: Iterable[bytes] = (),
    hang: bool = False,
) -> tuple[int, Headers, dict[str, Any]]:
    """Status, headers and body of the answer to one request."""
    given = {"host": "localhost:11434"} | (headers or {})
    pieces = list(body)
    if pieces and "content-length" not in given and "transfer-encoding" not in given:
        given["content-length"] = str(sum(map(len, pieces)))
    scope: Scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
    }  # fmt: skip
    sent: list[Message] = []

    async def run() -> None:
        async def receive() -> Message:
            if pieces:
                piece = pieces.pop(0)
                more = bool(pieces) or hang
                return {"type": "http.request", "body": piece, "more_body": more}
            if hang:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await Guard(echo, rules or Rules())(scope, receive, send)

    asyncio.run(run())
    answered = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], answered, json.loads(sent[1].get("body") or b"{}")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:11434", 200), ("127.0.0.1:11434", 200), ("[::1]:80", 200),
        ("192.168.1.5", 200), ("box.localhost", 200), ("localhost.", 200),
        ("evil.example", 403), ("evil.example:11434", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("", 403), ("localhost@evil.example", 403), ("a b", 403),
    ],
)  # fmt: skip
def test_only_this_machine_is_asked(host: str, status: int) -> None:
    assert ask(headers={"host": host})[0] == status


def test_names_can_be_allowed() -> None:
    rules = Rules(hosts=frozenset({"desk.home"}))
    assert ask(rules, headers={"host": "Desk.home:1"})[0] == 200
    assert ask(rules, headers={"host": "other.home"})[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200), ("http://localhost:11434", 200), ("http://evil.example", 403), ("null", 403),
        ("http://localhost:9999", 403), ("file://", 403), ("", 403),
        ("http://localhost:11434.evil.example", 403),
    ],
)  # fmt: skip
def test_other_pages_may_not_ask(origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"origin": origin}
    found, answered, _ = ask(headers=headers)
    assert found == status
    assert "access-control-allow-origin" not in answered


def test_pages_can_be_allowed() -> None:
    rules = Rules(origins=frozenset({"https://chat.example"}), keys=("k",))
    headers = {"origin": "https://chat.example", "x-api-key": "k"}
    status, answered, _ = ask(rules, headers=headers)
    assert status == 200
    assert answered["access-control-allow-origin"] == "https://chat.example"
    preflight = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    status, answered, _ = ask(rules, method="OPTIONS", headers=preflight)  # carries no key
    assert status == 200
    assert "authorization" in answered["access-control-allow-headers"]
    evil = preflight | {"origin": "https://evil.example"}
    assert ask(rules, method="OPTIONS", headers=evil)[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401), ({"authorization": "Bearer secret"}, 200), ({"x-api-key": "other"}, 200),
        ({"authorization": "bearer  secret "}, 200), ({"authorization": "Basic secret"}, 401),
        ({"authorization": "Bearer wrong"}, 401), ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer \xff"}, 401), ({"x-api-key": "secre"}, 401),
        ({"x-api-key": "secretsecret"}, 401), ({"x-api-key": ""}, 401),
    ],
)  # fmt: skip
def test_keys(headers: Headers, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rules = Rules(keys=("secret", "other"))
    found, _, body = ask(rules, headers=headers)
    assert found == status
    for kept in ("secret", "other"):
        assert kept not in caplog.text
    if status == 401:
        assert body["error"]["code"] == "invalid_api_key"
        assert "secret" not in json.dumps(body)


def test_some_paths_need_no_key() -> None:
    rules = Rules(keys=("k",))
    for path in ("/", "/health", "/ready", "/web/", "/web/app.js"):
        assert ask(rules, path=path)[0] == 200, path
    for path in (
        "/v1/models",
        "/healthy",
        "/metrics",
        "/exosuit/status",
        "/web",
        "//",
        "/api/tags",
    ):
        assert ask(rules, path=path)[0] == 401, path


def test_errors_speak_the_dialect_of_their_path() -> None:
    rules = Rules(keys=("k",))
    assert ask(rules, path="/v1/chat/completions")[2]["error"]["type"] == "invalid_request_error"
    assert ask(rules, path="/v1/messages")[2]["error"]["type"] == "authentication_error"
    assert isinstance(ask(rules, path="/api/tags")[2]["error"], str)


def test_bodies_are_bounded_in_size() -> None:
    rules = Rules(body_bytes=1000)
    assert ask(rules, method="POST", body=[b"1" * 1000])[0] == 200
    assert ask(rules, method="POST", body=[b"1" * 1001])[0] == 413
    chunked = {"transfer-encoding": "chunked"}
    assert ask(rules, method="POST", headers=chunked, body=[b"1" * 400] * 2)[0] == 200
    assert ask(rules, method="POST", headers=chunked, body=[b"1" * 400] * 3)[0] == 413
    lying = {"content-length": "99999999"}
    assert ask(rules, method="POST", headers=lying, body=[b"1"], hang=True)[0] == 413


def test_bodies_are_bounded_in_time() -> None:
    rules = Rules(body_s=0.05)
    assert (
        ask(rules, method="POST", headers={"content-length": "9"}, body=[b"1"], hang=True)[0] == 408
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 64, 200), (b"[" * 65, 400), (b'{"a":' * 65, 400), (b'"' + b"[" * 99 + b'"', 200),
        (b'"\\"' + b"[" * 99 + b'"', 200), (b"[]" * 1000, 200), (b"[]," * 500_001, 400),
        (b'"' + b"\\" * 99_999, 200),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_bodies_are_bounded_in_depth(body: bytes, status: int) -> None:
    assert ask(method="POST", body=[body])[0] == status


def test_a_body_is_json_whatever_it_is_called() -> None:
    for called in ("application/x-www-form-urlencoded", "text/plain", ""):
        headers = {"content-type": called} if called else {}
        _, _, seen = ask(method="POST", body=[b"{", b"}"], headers=headers)
        assert seen["type"] == "application/json"
        assert seen["body"] == "{}"


def test_requests_have_ids() -> None:
    _, answered, seen = ask()
    assert answered["x-request-id"] == answered["request-id"] == seen["id"]
    assert answered["x-content-type-options"] == "nosniff"
    assert ask(headers={"x-request-id": "mine-1"})[2]["id"] == "mine-1"
    for forged in ("x" * 65, "a b", "é"):
        assert ask(headers={"x-request-id": forged})[2]["id"].startswith("req_")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_nothing(host: str) -> None:
    assert is_loopback(host)
    check_binding(host, has_key=False, without_key=False, on_network=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "desk.home", ""])
def test_wider_needs_a_key_or_to_be_told_twice(host: str) -> None:
    assert not is_loopback(host)
    for without_key, on_network in ((False, False), (True, False), (False, True)):
        with pytest.raises(UsageError, match="reached by other machines"):
            check_binding(host, has_key=False, without_key=without_key, on_network=on_network)
    check_binding(host, has_key=True, without_key=False, on_network=False)
    check_binding(host, has_key=False, without_key=True, on_network=True)
