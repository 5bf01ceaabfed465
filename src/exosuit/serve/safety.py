"""Who may ask, and how much: the rules that every request passes before anything else sees it.

Against web pages that reach for a local server: the Host must be this machine (DNS rebinding), an
Origin must be our own page or one that was allowed (CORS is off otherwise). Against everybody:
keys, where there are any, are compared in constant time and never logged; bodies are bounded in
size, depth and time. Sources: the Fetch standard (CORS protocol), OWASP on DNS rebinding.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exosuit.errors import ExosuitError, UsageError
from exosuit.serve.problems import Refusal, body_for, problem_of
from exosuit.serve.sending import Json

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_JSON_PARTS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_MOST_BRACKETS = 500_000


@dataclass(frozen=True)
class Rules:
    """What is let in.

    keys        API keys; none means that nobody needs one
    hosts       names besides localhost and addresses under which this server may be asked
    origins     web pages of others that may ask: "https://chat.example"
    open_paths  need no key; those that end in "/" stand for all below them
    body_bytes, depth, body_s  most of a body, of its nesting, and of the wait for more of it
    """

    keys: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    open_paths: tuple[str, ...] = ("/health", "/ready", "/", "/web/")
    body_bytes: int = 8 << 20
    depth: int = 64
    body_s: float = 30.0


def check_binding(host: str, *, has_key: bool, without_key: bool, on_network: bool) -> None:
    """UsageError for an address that others can reach; a key or two flags make it possible."""
    if is_loopback(host) or has_key or (without_key and on_network):
        return
    raise UsageError(
        f"{host} can be reached by other machines, and there is no API key",
        cause="anybody on the network could use, load and delete models",
        next="give --api-key KEY, or both --without-key and --on-network",
        host=host,
    )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """The middleware that holds the rules. Requests leave it with an id in `scope["state"]`."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._keys = [_digest(key.encode()) for key in rules.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        origin = headers.get("origin")
        added = [(b"x-request-id", request_id.encode()), (b"request-id", request_id.encode())]
        added.append((b"x-content-type-options", b"nosniff"))
        if origin in self._rules.origins:
            added += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            self._check_host(headers)
            self._check_origin(headers)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(scope, receive, sending)
                return
            self._check_key(scope["path"], headers)
            receive = await self._bounded(scope, headers, receive)
        except ExosuitError as error:
            problem = problem_of(error, request_id)
            body = body_for(scope["path"], problem)
            headers_out = dict(problem.headers) | {"connection": "close"}
            await Json(body, problem.status, headers_out)(scope, receive, sending)
            return
        await self._app(scope, receive, sending)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) == 1 and self._is_ours(_name_of(hosts[0])):
            return
        raise Refusal(
            f"this server is not called {', '.join(hosts)[:100]!r}",
            status=403,
            cause="a web page may have been pointed at this machine (DNS rebinding)",
            next="ask localhost or the address, or start the server with --allow-host NAME",
        )

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._rules.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True  # an address needs no name server, so nobody can have turned it

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._rules.origins:
            return
        if origin.partition("://")[2].lower() == headers.get("host", "").lower():
            return
        raise Refusal(
            f"the web page {origin[:100]!r} may not use this server",
            status=403,
            cause="only the server's own page may, unless others are allowed",
            next="start the server with --allow-origin ORIGIN",
        )

    def _check_key(self, path: str, headers: Headers) -> None:
        if not self._keys or _is_under(path, self._rules.open_paths):
            return
        given = headers.get("x-api-key", "")
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            given = bearer.strip()
        digest = _digest(given.encode("utf-8", "replace"))
        # All keys are compared, so that the time tells nothing about which one was near.
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            raise Refusal(
                "the API key is wrong" if given else "an API key is needed",
                status=401,
                cause="this server was started with --api-key",
                next="send it as  Authorization: Bearer KEY  or  x-api-key: KEY",
            )

    async def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """The whole body, checked; what comes after it is passed on."""
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._rules.body_bytes:
            raise self._too_large()
        has_body = length != "0" or "transfer-encoding" in headers
        body = await self._read(receive) if has_body else b""
        if len(body) > 64 << 10:
            await asyncio.to_thread(_check_shape, body, self._rules.depth)
        else:
            _check_shape(body, self._rules.depth)
        if body:  # curl says "form" where it means JSON, and there is nothing else here
            kept = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-type"]
            scope["headers"] = [*kept, (b"content-type", b"application/json")]
        is_given = False

        async def replay() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay

    async def _read(self, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            try:
                async with asyncio.timeout(self._rules.body_s):
                    message = await receive()
            except TimeoutError:
                raise Refusal(
                    f"the request's body stopped for {self._rules.body_s:.0f} seconds",
                    status=408,
                    cause="the client or the network between is stuck",
                    next="send the request again",
                ) from None
            if message["type"] == "http.disconnect":
                return b""
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._rules.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _too_large(self) -> Refusal:
        return Refusal(
            f"the request's body is larger than {self._rules.body_bytes >> 20} MiB",
            status=413,
            cause="no model's context holds so much",
            next="send less",
        )


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    """An allowed page asks whether it may ask."""
    answer = {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "authorization, content-type, x-api-key, x-request-id,"
        " anthropic-version, anthropic-beta",
        "access-control-max-age": "600",
    }
    await Json({}, 200, answer)(scope, receive, send)


def _check_shape(body: bytes, most: int) -> None:
    """How deep the JSON nests, and how many lists and objects it holds, before it is parsed."""
    depth = brackets = 0
    for match in _JSON_PARTS.finditer(body):
        first = body[match.start()]
        if first in b"[{":
            depth += 1
            brackets += 1
            if depth > most or brackets > _MOST_BRACKETS:
                raise Refusal(
                    f"the request's JSON nests more than {most} deep, or has more than"
                    f" {_MOST_BRACKETS} lists and objects",
                    cause="no request of any client looks like this",
                    next="send plain messages",
                )
        elif first in b"]}":
            depth -= 1


def _name_of(host: str) -> str:
    """The Host header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def _request_id(given: str) -> str:
    return given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _digest(key: bytes) -> bytes:
    """Of fixed length, so that a comparison tells nothing about a key's length."""
    return hashlib.sha256(key).digest()


def _is_under(path: str, open_paths: Iterable[str]) -> bool:
    return any(
        path == allowed or (allowed != "/" and allowed.endswith("/") and path.startswith(allowed))
        for allowed in open_paths
    )
