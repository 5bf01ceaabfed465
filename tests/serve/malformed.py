"""Requests that are wrong in every way: bytes, JSON, fields, framing. Seeded, so repeatable.

`Malformed(seed)` makes them; `send` puts one on a connection and reads what comes back. Shared by
the tests and by `benchmarks/serve_fuzz.py`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

MODEL = "stories"
_MESSAGES = [{"role": "user", "content": "hi"}]
_TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}

# Right in themselves: what is sent is always one of these, damaged.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": MODEL, "messages": _MESSAGES, "max_tokens": 1, "temperature": 0.5, "stop": ["x"],
        "tools": [{"type": "function", "function": _TOOL}], "tool_choice": "auto", "n": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "logit_bias": {"5": 1.0}, "logprobs": True, "top_logprobs": 2, "stream": False, "seed": 1,
    },
    "/v1/completions": {
        "model": MODEL, "prompt": "Once", "max_tokens": 1, "temperature": 0, "logprobs": 1,
        "echo": True, "stop": ["\n"], "guided_regex": "[a-z ]+", "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {
        "model": MODEL, "input": [{"role": "user", "content": "hi"}], "max_output_tokens": 1,
        "tools": [{"type": "function", **_TOOL}], "text": {"format": {"type": "json_object"}},
    },
    "/v1/embeddings": {"model": MODEL, "input": ["a", "b"], "encoding_format": "float"},
    "/v1/messages": {
        "model": MODEL, "max_tokens": 1, "messages": _MESSAGES, "system": [{"type": "text",
        "text": "x"}], "tools": [{"name": "f", "input_schema": {}}], "stop_sequences": ["y"],
        "tool_choice": {"type": "any"}, "thinking": {"type": "disabled"},
    },
    "/v1/messages/count_tokens": {"model": MODEL, "messages": _MESSAGES},
    "/api/chat": {
        "model": MODEL, "messages": _MESSAGES, "stream": False, "format": "json",
        "options": {"num_predict": 1, "temperature": 0, "stop": ["x"]}, "keep_alive": "5m",
    },
    "/api/generate": {
        "model": MODEL, "prompt": "Once", "raw": True, "options": {"num_predict": 1},
        "context": [1, 2], "system": "x", "suffix": None,
    },
    "/api/embed": {"model": MODEL, "input": "a"},
    "/api/show": {"model": MODEL},
    "/api/copy": {"source": "nothing", "destination": "other"},
    "/tokenize": {"model": MODEL, "content": "abc", "with_pieces": True},
    "/detokenize": {"model": MODEL, "tokens": [1, 2, 3]},
}  # fmt: skip

JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**200, 1e308, -0.0, 1e-320, "", " ",
    "x", "\x00", "\ud800", "\U0010ffff", "é" * 50, "../../etc/passwd", "/dev/zero", "nan", "{}",
    "<|im_end|>", "{{ 7 * 7 }}", "a" * 5000, [], {}, [[]], [None], [1, "a", {}], {"a": {"b": []}},
    {"": ""}, {"type": "text"}, {"type": "object", "$ref": "#"}, ["\n"] * 40, [[[[[[]]]]]],
    {"role": "user"}, [{"role": "user", "content": None}], {"type": "function"}, "x" * 40_000,
]  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """One request as bytes.

    closes  its framing leaves the connection useless
    ends    nothing will follow, and the server shall know
    """

    data: bytes
    closes: bool = False
    ends: bool = False


class Malformed:
    """An endless supply."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._paths = sorted(BODIES)

    def next(self) -> Sent:
        kinds: list[tuple[Callable[[], Sent], int]] = [
            (self._wrong_field, 55), (self._wrong_bytes, 20), (self._wrong_json, 15),
            (self._wrong_request, 6), (self._wrong_framing, 4),
        ]  # fmt: skip
        choices, weights = zip(*kinds, strict=True)
        return self._random.choices(choices, weights)[0]()

    def _post(self, body: bytes, path: str | None = None) -> Sent:
        path = path or self._random.choice(self._paths)
        return Sent(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/json\r\n\r\n".encode()
            + body
        )

    def _wrong_field(self) -> Sent:
        path = self._random.choice(self._paths)
        body = json.loads(json.dumps(BODIES[path]))
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._damage(body)
        return self._post(json.dumps(body).encode(), path)

    def _damage(self, value: Any) -> None:
        """Replace, remove or add something somewhere inside."""
        chance = self._random
        while True:
            if isinstance(value, dict) and value:
                key = chance.choice(list(value))
            elif isinstance(value, list) and value:
                key = chance.randrange(len(value))
            else:
                return
            inner = value[key]
            if isinstance(inner, (dict, list)) and inner and chance.random() < 0.6:
                value = inner
                continue
            break
        action = chance.random()
        if action < 0.75:
            value[key] = self._junk()
        elif action < 0.88:
            del value[key]
        elif isinstance(value, dict):
            value[chance.choice(["extra", "", "messages", "type", "ä"])] = self._junk()
        else:
            value.extend([self._junk()] * chance.choice((1, 3, 200)))

    def _junk(self) -> Any:
        return copy.deepcopy(self._random.choice(JUNK))

    def _wrong_bytes(self) -> Sent:
        path = self._random.choice(self._paths)
        body = bytearray(json.dumps(BODIES[path]).encode())
        for _ in range(self._random.randint(1, 8)):
            at = self._random.randrange(len(body))
            match self._random.randrange(4):
                case 0:
                    body[at] = self._random.randrange(256)
                case 1:
                    del body[at : at + self._random.randint(1, 20)]
                case 2:
                    body[at:at] = self._random.choice(
                        (b"\x00", b'"', b"{", b"\\u12", b"\xff\xfe", b"1e999", b"NaN", b"\\ud83d")
                    )
                case _:
                    body = body[:at] or bytearray(b"x")
            if not body:
                body = bytearray(b" ")
        return self._post(bytes(body), path)

    def _wrong_json(self) -> Sent:
        depth = self._random.choice((10, 65, 1000, 50_000))
        bodies = (
            b"", b"null", b"[]", b'""', b"0", b"NaN", b"{", b"}", b"[" * depth, b'{"a":' * depth,
            b'{"a":1,"a":2}', b'{"messages":' + b"[" * 60 + b"]" * 60 + b"}", b"{}{}",
            b'{"model": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b'{"a":\t1,}', b" " * 9000,
            "{}".encode("utf-16"), b'{"prompt": "' + b"\\u0000" * 2000 + b'"}',
        )  # fmt: skip
        return self._post(self._random.choice(bodies))

    def _wrong_request(self) -> Sent:
        chance = self._random
        method = chance.choice(
            ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW", "TRACE")
        )
        path = chance.choice(
            (*self._paths, "/", "/nothing", "/v1/models/../..", "/v1/models/%00", "/%2e%2e/x",
             "/v1/models/" + "a" * 3000, "//v1//models", "/api/blobs/sha256:1", "/?" + "q=1&" * 500)
        )  # fmt: skip
        header = chance.choice(
            ("X-A: b", "Origin: https://evil.example", "Authorization: Bearer \xff",
             "Cookie: " + "a" * 4000, "Accept: */*", "X-Request-Id: " + "z" * 500,
             "Expect: 100-continue", "Range: bytes=0-1", "Upgrade: websocket",
             "Transfer-Encoding: identity")
        )  # fmt: skip
        host = chance.choice(("localhost", "127.0.0.1:80", "[::1]", "evil.example", "", "a\tb"))
        data = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\nContent-Length: 0\r\n\r\n"
        return Sent(data.encode("latin-1", "replace"), closes=True)

    def _wrong_framing(self) -> Sent:
        post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        get = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        requests = (
            b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET /\r\n\r\n",
            post + b"Content-Length: -1\r\n\r\n", post + b"Content-Length: 99999999999\r\n\r\n{",
            post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            post + b"Host: b\r\nContent-Length: 0\r\n\r\n", post + b"Content-Length: 100\r\n\r\n{",
            b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", get + b"A: " + b"b" * 100_000,
            get + b"Bad Header\r\n\r\n",
        )  # fmt: skip
        return Sent(self._random.choice(requests), closes=True, ends=True)


class Connection:
    """One connection at a time to the server; opened again where it was closed."""

    def __init__(self, host: str, port: int, patience_s: float = 30.0) -> None:
        self._where = host, port
        self._patience_s = patience_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, sent: Sent) -> int:
        """The status of the answer, read to its end; 0 where the server just closed."""
        for attempt in (1, 2):
            try:
                async with asyncio.timeout(self._patience_s):
                    return await self._exchange(sent)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if sent.closes or attempt == 2:  # a kept connection may have been closed before
                    return 0
        raise AssertionError

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, sent: Sent) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._where, limit=1 << 20)
        reader, writer = self._streams
        writer.write(sent.data)
        await writer.drain()
        if sent.ends:
            with suppress(OSError):  # it may have hung up already
                writer.write_eof()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if sent.data.startswith(b"HEAD") or status in (204, 304):
            pass
        elif "transfer-encoding: chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        elif "content-length: " in head:
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        else:
            await reader.read()
        if sent.closes or "connection: close" in head:
            self.close()
        return status
