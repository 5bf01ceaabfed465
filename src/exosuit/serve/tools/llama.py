"""Tool calls as Llama 3.1 to 3.3 write them: the whole answer is a JSON object.

    {"name": "weather", "parameters": {"city": "Oslo"}}
    <|python_tag|>weather.call(city="Oslo")
    <|python_tag|>print("code for the built-in interpreter")

Several objects may follow one another, separated by `;` or space. Source: Meta's prompt formats of
Llama 3.1 ("JSON based tool calling", "Built in Python based tool calling").
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

from exosuit.serve.markers import split_at
from exosuit.serve.tools.definitions import CallDelta
from exosuit.serve.tools.reading import CallReader

TAG = "<|python_tag|>"
INTERPRETERS = ("code_interpreter", "python", "ipython")


class LlamaParser:
    """Reads one answer; see `tools.reading.Parser`.

    interpreter  the client's tool that runs Python code, if it has one of the usual name
    """

    def __init__(self, interpreter: str | None = None) -> None:
        self._interpreter = interpreter
        self._held = ""
        self._state = "start"
        self._call: CallReader | None = None
        self._count = 0

    def feed(self, text: str) -> Iterator[str | CallDelta]:
        self._held += text
        while self._held:
            if self._call is not None:
                fed, self._held = self._held, ""
                yield from self._call.feed(fed)
                if not self._call.is_done:
                    return
                yield from self._end()
            elif self._state == "text":
                before, mark, self._held = split_at(self._held, (TAG,))
                if before:
                    yield before
                if mark is None:
                    return
                self._state = "tag"
            elif self._state == "code":
                return  # only its end says what it is
            else:
                start = self._held.lstrip(" \t\r\n;" if self._state == "next" else " \t\r\n")
                if start.startswith(TAG):
                    self._state, self._held = "tag", start[len(TAG) :]
                elif TAG.startswith(start):
                    return
                elif start.startswith("{"):
                    self._held, self._call = start, CallReader(self._count)
                else:
                    self._state = "code" if self._state == "tag" else "text"

    def flush(self) -> Iterator[str | CallDelta]:
        if self._call is not None:
            self._call.flush()
            yield from self._end()
        held, self._held = self._held, ""
        if self._state == "code":
            yield self._code(held.strip())
        elif held and not (self._state == "next" and not held.strip(" \t\r\n;")):
            yield held

    def _end(self) -> Iterator[str | CallDelta]:
        assert self._call is not None
        self._held = (self._call.rest or "") + self._held
        if self._call.failed is not None:
            if self._call.failed:
                yield self._call.failed
            self._state = "text"
        else:
            self._count += 1
            self._state = "next"
        self._call = None

    def _code(self, code: str) -> str | CallDelta:
        """`tool.call(key="value")`, or a program for the interpreter."""
        called = _tool_call(code)
        if called is not None:
            name, arguments = called
        elif self._interpreter is not None:
            name, arguments = self._interpreter, {"code": code}
        else:
            return code
        self._count += 1
        return CallDelta(self._count - 1, name, json.dumps(arguments, ensure_ascii=False))


def _tool_call(code: str) -> tuple[str, dict[str, object]] | None:
    """Name and arguments, if the code is nothing but `name.call(key=literal, ...)`."""
    try:
        call = ast.parse(code, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            return None
        if not isinstance(call.func.value, ast.Name) or call.func.attr != "call" or call.args:
            return None
        arguments: dict[str, object] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                return None
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        json.dumps(arguments)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return call.func.value.id, arguments
