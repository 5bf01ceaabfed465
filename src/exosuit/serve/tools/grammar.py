"""Grammars of tool calls, in each style: to force a call, or to keep those valid that are made.

In llguidance's Lark dialect; `@name` stands for the grammar of that name, `<[5]>` for token 5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from exosuit.serve.tools.definitions import Tool

Grammars = dict[str, dict[str, Any]]
"""Name to {"lark_grammar": text} or {"json_schema": schema}; the first is where it begins."""

Spell = Callable[[str], str]
"""How the grammar writes a marker: a text in quotes, or a control token."""


@dataclass(frozen=True)
class Pattern:
    """How one call is written.

    marker     what it begins with; "" where calls are the whole answer
    rest       what follows, in Lark
    separator  between calls, in Lark
    rules      further lines of Lark that `rest` refers to
    grammars   those that it refers to as `@name`
    """

    marker: str
    rest: str
    separator: str = ""
    rules: tuple[str, ...] = ()
    grammars: Grammars = field(default_factory=Grammars)

    def forced(self, spell: Spell, many: bool) -> Grammars:
        """The answer is a call, or with `many` one or more."""
        once = f"{spell(self.marker)} {self.rest}" if self.marker else self.rest
        more = f" ({self.separator} {once})*" if many else ""
        return self._with(f"start: {once}{more}")

    def kept(self, spell: Spell) -> Grammars:
        """The answer is any text; where a call begins in it, it goes on as one."""
        if not self.marker:
            return self._with(f"start: {self.rest} | other", "other: /([^{](.|\\n)*)?/")
        marker = spell(self.marker)
        # A marker of text ends the text before it as soon as it is there: hence lazy.
        head = f"head[lazy]: TEXT {marker}" if marker.startswith('"') else f"head: TEXT {marker}"
        lines = ("start: call* TEXT", f"call: head {self.rest}", head, "TEXT: /(.|\\n)*/")
        return self._with(*lines)

    def _with(self, *lines: str) -> Grammars:
        return {"call": {"lark_grammar": "\n".join((*lines, *self.rules))}} | self.grammars


def hermes(tools: Sequence[Tool], spell: Spell) -> Pattern:
    rest = f'"\\n" @object "\\n" {spell("</tool_call>")}'
    return Pattern("<tool_call>", rest, '"\\n"', grammars=_objects(tools, "arguments"))


def llama(tools: Sequence[Tool], spell: Spell) -> Pattern:
    return Pattern("", "@object", '"; "', grammars=_objects(tools, "parameters"))


def mistral_list(tools: Sequence[Tool], spell: Spell) -> Pattern:
    """The list says by itself that there may be more."""
    rest = '"[" @object (", " @object)* "]"'
    return Pattern("[TOOL_CALLS]", rest, grammars=_objects(tools, "arguments"))


def mistral_names(tools: Sequence[Tool], spell: Spell) -> Pattern:
    options = [
        f"{json.dumps(tool.name)} {spell('[ARGS]')} @arguments{number}"
        for number, tool in enumerate(tools)
    ]
    grammars: Grammars = {
        f"arguments{number}": {"json_schema": tool.parameters} for number, tool in enumerate(tools)
    }
    return Pattern("[TOOL_CALLS]", f"({' | '.join(options)})", grammars=grammars)


def qwen(tools: Sequence[Tool], spell: Spell) -> Pattern:
    """Required parameters in their order, then any of the others."""
    grammars: Grammars = {}
    options: list[str] = []
    for tool in tools:
        properties = cast("dict[str, Any]", tool.parameters.get("properties", {}))
        required = cast("list[str]", tool.parameters.get("required", []))
        parts = [json.dumps(f"<function={tool.name}>\n")]
        for key in sorted(properties, key=lambda key: key not in required):
            schema = properties[key]
            if isinstance(schema, dict) and cast("dict[str, Any]", schema).get("type") == "string":
                value = "text"
            else:
                name = f"value{len(grammars)}"
                grammars[name] = {"json_schema": schema}
                value = f'@{name} "\\n</parameter>\\n"'
            part = f"{json.dumps(f'<parameter={key}>' + chr(10))} {value}"
            parts.append(part if key in required else f"({part})?")
        options.append(" ".join([*parts, json.dumps("</function>\n")]))
    rules = (
        f"function: {' | '.join(options)}",
        'text[suffix="\\n</parameter>\\n"]: /(.|\\n)*/',
    )
    rest = f'"\\n" function {spell("</tool_call>")}'
    return Pattern("<tool_call>", rest, '"\\n"', rules, grammars)


def _objects(tools: Sequence[Tool], arguments: str) -> Grammars:
    """One call of one of the tools as an object; `arguments` is the key that holds them."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, arguments: tool.parameters},
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return {"object": {"json_schema": {"anyOf": calls}}}
