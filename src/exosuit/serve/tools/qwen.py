"""Tool calls as Qwen 3 Coder writes them: a function and its parameters as marked text.

    <tool_call>
    <function=weather>
    <parameter=city>
    Oslo
    </parameter>
    </function>
    </tool_call>

What a parameter's text means is said by its schema: text stays as it is, anything else is JSON.
Source: the chat template of Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from exosuit.serve.markers import split_at, split_content
from exosuit.serve.tools.definitions import CallDelta, Tool

_BEFORE, _FUNCTION, _END, _AFTER = "<tool_call>", "<function=", "</function>", "</tool_call>"
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


class QwenParser:
    """Reads one answer; see `tools.reading.Parser`. A call is told when it is complete."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools
        self._held = ""
        self._in_call = False
        self._count = 0

    def feed(self, text: str) -> Iterator[str | CallDelta]:
        self._held += text
        while True:
            if self._in_call:
                whole, mark, rest = split_at(self._held, (_END,))
                if mark is None:
                    return
                self._held, self._in_call = rest, False
                yield self._call(whole) or whole + mark
            content, mark, self._held = split_content(self._held, (_BEFORE, _FUNCTION, _AFTER))
            if content:
                yield content
            if mark is None:
                return
            if mark != _AFTER:
                self._in_call, self._held = True, mark + self._held

    def flush(self) -> Iterator[str | CallDelta]:
        held, self._held = self._held, ""
        if held and (held.strip() or not self._count):
            yield held

    def _call(self, text: str) -> CallDelta | None:
        named = re.search(r"<function=([^>\n]+)>", text)
        if named is None:
            return None
        name = named[1].strip()
        tool = self._tools.get(name)
        properties = cast("dict[str, Any]", (tool.parameters if tool else {}).get("properties", {}))
        arguments = {
            key.strip(): _value(value, properties.get(key.strip()))
            for key, value in _PARAMETER.findall(text[named.end() :])
        }
        self._count += 1
        return CallDelta(self._count - 1, name, json.dumps(arguments, ensure_ascii=False))


def _value(text: str, schema: object) -> object:
    kind = cast("dict[str, Any]", schema).get("type") if isinstance(schema, dict) else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
