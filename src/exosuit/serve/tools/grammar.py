"""Grammars that force a tool call, in each style: what the model writes is then always a call.

In llguidance's Lark dialect; `@name` stands for the grammar of that name, `<[5]>` for token 5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from exosuit.serve.tools.definitions import Tool

Grammars = dict[str, dict[str, Any]]
"""Name to {"lark_grammar": text} or {"json_schema": schema}; "call" is the first."""

Spell = Callable[[str], str]
"""How the grammar writes a marker: a text in quotes, or a control token."""


def calls(tools: Sequence[Tool], arguments: str) -> dict[str, Any]:
    """The schema of one call of one of the tools; `arguments` is the key that holds them."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, arguments: tool.parameters},
                "required": ["name", arguments],
                "additionalProperties": False,
            }
            for tool in tools
        ]
    }


def hermes(tools: Sequence[Tool], spell: Spell, many: bool) -> Grammars:
    once = f'{spell("<tool_call>")} "\\n" @object "\\n" {spell("</tool_call>")}'
    rest = f' ("\\n" {once})*' if many else ""
    return _with_object(f"start: {once}{rest}", calls(tools, "arguments"))


def llama(tools: Sequence[Tool], spell: Spell, many: bool) -> Grammars:
    rest = ' ("; " @object)*' if many else ""
    return _with_object(f"start: @object{rest}", calls(tools, "parameters"))


def mistral_list(tools: Sequence[Tool], spell: Spell, many: bool) -> Grammars:
    rest = ' (", " @object)*' if many else ""
    return _with_object(
        f'start: {spell("[TOOL_CALLS]")} "[" @object{rest} "]"', calls(tools, "arguments")
    )


def mistral_names(tools: Sequence[Tool], spell: Spell, many: bool) -> Grammars:
    grammars: Grammars = {}
    options: list[str] = []
    for number, tool in enumerate(tools):
        options.append(f"{_quoted(tool.name)} {spell('[ARGS]')} @arguments{number}")
        grammars[f"arguments{number}"] = {"json_schema": tool.parameters}
    once = f"{spell('[TOOL_CALLS]')} ({' | '.join(options)})"
    return {"call": {"lark_grammar": f"start: {once}" + (f" ({once})*" if many else "")}} | grammars


def qwen(tools: Sequence[Tool], spell: Spell, many: bool) -> Grammars:
    """Required parameters in their order, then any of the others."""
    grammars: Grammars = {}
    rules: list[str] = []
    options: list[str] = []
    for number, tool in enumerate(tools):
        properties = cast("dict[str, Any]", tool.parameters.get("properties", {}))
        required = cast("list[str]", tool.parameters.get("required", []))
        parts = [_quoted(f"<function={tool.name}>\n")]
        for key in sorted(properties, key=lambda key: key not in required):
            schema = properties[key]
            if isinstance(schema, dict) and cast("dict[str, Any]", schema).get("type") == "string":
                value = f"text{number}"
            else:
                value = f"@value{len(grammars)}"
                grammars[value[1:]] = {"json_schema": schema}
                value += ' "\\n</parameter>\\n"'
            part = f"{_quoted(f'<parameter={key}>' + chr(10))} {value}"
            parts.append(part if key in required else f"({part})?")
        parts.append(_quoted("</function>\n"))
        options.append(" ".join(parts))
        rules.append(f'text{number}[suffix="\\n</parameter>\\n"]: /(.|\\n)*/')
    once = f'{spell("<tool_call>")} "\\n" function {spell("</tool_call>")}'
    rest = f' ("\\n" {once})*' if many else ""
    lines = [f"start: {once}{rest}", f"function: {' | '.join(options)}", *rules]
    return {"call": {"lark_grammar": "\n".join(lines)}} | grammars


def _with_object(start: str, schema: dict[str, Any]) -> Grammars:
    return {"call": {"lark_grammar": start}, "object": {"json_schema": schema}}


def _quoted(text: str) -> str:
    return json.dumps(text)
