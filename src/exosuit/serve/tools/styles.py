"""Which style of tool calls a model was trained on, told from its chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exosuit.serve.tools import grammar
from exosuit.serve.tools.definitions import Tool
from exosuit.serve.tools.hermes import HermesParser
from exosuit.serve.tools.llama import INTERPRETERS, LlamaParser
from exosuit.serve.tools.mistral import MistralParser
from exosuit.serve.tools.qwen import QwenParser
from exosuit.serve.tools.reading import Parser


@dataclass(frozen=True)
class Style:
    """A way of writing calls.

    markers  texts that matter to the parser even where they are control tokens
    parser   made anew for each answer
    pattern  how a call of one of the tools is written, given how markers are spelt
    """

    name: str
    markers: tuple[str, ...]
    parser: Callable[[Sequence[Tool]], Parser]
    pattern: Callable[[Sequence[Tool], grammar.Spell], grammar.Pattern]


def _llama(tools: Sequence[Tool]) -> Parser:
    names = [tool.name for tool in tools]
    return LlamaParser(next((name for name in INTERPRETERS if name in names), None))


_CALL = ("<tool_call>", "</tool_call>")
HERMES = Style("hermes", _CALL, lambda tools: HermesParser(), grammar.hermes)
LLAMA = Style("llama", ("<|python_tag|>",), _llama, grammar.llama)
MISTRAL = Style("mistral", ("[TOOL_CALLS]",), lambda tools: MistralParser(), grammar.mistral_list)
MISTRAL_NAMES = Style(
    "mistral names",
    ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    lambda tools: MistralParser(),
    grammar.mistral_names,
)
QWEN = Style(
    "qwen", _CALL, lambda tools: QwenParser({tool.name: tool for tool in tools}), grammar.qwen
)


def style_of(template: str) -> Style | None:
    """By what the template's source writes; None for a style that is not known here."""
    for sign, style in (
        ("<arg_key>", None),  # GLM's, between the same marks as Hermes's
        ("[ARGS]", MISTRAL_NAMES),
        ("[TOOL_CALLS]", MISTRAL),
        ("<function=", QWEN),
        ("<tool_call>", HERMES),
        ("<|python_tag|>", LLAMA),
        ("ipython", LLAMA),
    ):
        if sign in template:
            return style
    return None
