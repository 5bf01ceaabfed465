"""The server's log: one JSON object for each line, or plain lines on a terminal.

Facts travel as `extra={...}` of a log call. Prompts, answers and keys are never among them; of a
request its id, its path and its time are told, not its query and not its body.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_access = logging.getLogger("exosuit.serve.access")


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "message", ...}`, time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_facts(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """`12:04:05 message  key=value`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        facts = "  ".join(f"{key}={value}" for key, value in _facts(record).items())
        line = f"{clock} {level}{record.getMessage()}" + (f"  {facts}" if facts else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return "".join(c if c.isprintable() or c == "\n" else " " for c in line)


def configure(style: str = "auto", stream: TextIO | None = None) -> None:
    """Send every log line of exosuit and uvicorn to `stream`, standard error if none is given.

    style  "json", "plain", or "auto": plain on a terminal
    """
    target = stream or sys.stderr
    plain = style == "plain" or (style == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(PlainLines() if plain else JsonLines())
    for name, level in (("exosuit", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


class AccessLog:
    """Middleware that notes each request when it has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status, size = 0, 0

        async def sending(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            _access.info(
                "request",
                extra={
                    "request_id": scope.get("state", {}).get("request_id", ""),
                    "method": scope["method"],
                    "path": scope["path"][:200],
                    "status": status,
                    "bytes": size,
                    "seconds": round(time.monotonic() - started, 4),
                },
            )


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _USUAL}
