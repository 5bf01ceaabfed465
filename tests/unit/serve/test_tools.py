"""Tool calls in the styles of several families, however their text is cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.serve.tools import CallDelta, Parser, Tool, style_of
from exosuit.serve.tools.hermes import HermesParser
from exosuit.serve.tools.llama import LlamaParser
from exosuit.serve.tools.mistral import MistralParser
from exosuit.serve.tools.qwen import QwenParser
from exosuit.serve.tools.styles import HERMES, LLAMA, MISTRAL, MISTRAL_NAMES, QWEN

WEATHER = Tool(
    "weather",
    "",
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
)
Answer = tuple[str, list[tuple[str, str, str | None]]]


def qwen() -> Parser:
    return QwenParser({"weather": WEATHER})


def read(parser: Parser, pieces: Sequence[str]) -> Answer:
    """Content, and the calls as (name, arguments, id)."""
    content, calls = "", list[list[str | None]]()
    parts = [part for piece in pieces for part in parser.feed(piece)]
    for part in [*parts, *parser.flush()]:
        if isinstance(part, str):
            content += part
        elif part.name is not None:
            assert part.position == len(calls)
            calls.append([part.name, part.arguments, part.id])
        else:
            assert part.position == len(calls) - 1
            calls[-1][1] = (calls[-1][1] or "") + part.arguments
    return content, [(str(name), str(arguments), id) for name, arguments, id in calls]


CASES: list[tuple[Callable[[], Parser], str, Answer]] = [
    (HermesParser, "Just text, 1 < 2.", ("Just text, 1 < 2.", [])),
    (
        HermesParser,
        'Look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        ("Look.", [("weather", '{"city": "Oslo"}', None)]),
    ),
    (
        HermesParser,
        '<tool_call>{"name":"a","arguments":{"x":"}{\\"</tool_call>"}}</tool_call>\n'
        '<tool_call>{"arguments": {}, "name": "b"}</tool_call>',
        ("", [("a", '{"x":"}{\\"</tool_call>"}', None), ("b", "{}", None)]),
    ),
    (HermesParser, '<tool_call>{"name": "a"}</tool_call>', ("", [("a", "{}", None)])),
    (
        HermesParser,
        '<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call> done',
        (" done", [("a", '{"x": 1}', None)]),
    ),
    (
        HermesParser,
        '<tool_call>{"type": "function", "function": {"name": "a", "arguments": {"x": 1}}}',
        ("", [("a", '{"x": 1}', None)]),
    ),
    (HermesParser, "a <tool_call> is a mark", ("a<tool_call> is a mark", [])),
    (HermesParser, '<tool_call>{"x": 1}', ('<tool_call>{"x": 1}', [])),
    (
        HermesParser,
        '<tool_call>{"name": "a", "arguments": {"x": [1, 2',
        ("", [("a", '{"x": [1, 2', None)]),
    ),
    (HermesParser, "half a mark <tool_ca", ("half a mark <tool_ca", [])),
    (LlamaParser, "Just text.", ("Just text.", [])),
    (
        LlamaParser,
        '{"name": "weather", "parameters": {"city": "Oslo"}}',
        ("", [("weather", '{"city": "Oslo"}', None)]),
    ),
    (
        LlamaParser,
        '\n{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": null}}',
        ("", [("a", "{}", None), ("b", '{"x": null}', None)]),
    ),
    (LlamaParser, '{"city": "Oslo"} is JSON', ('{"city": "Oslo"} is JSON', [])),
    (
        LlamaParser,
        '<|python_tag|>weather.call(city="Oslo", days=3)',
        ("", [("weather", '{"city": "Oslo", "days": 3}', None)]),
    ),
    (
        lambda: LlamaParser("python"),
        "Watch: <|python_tag|>print(1)\nprint(2)",
        ("Watch: ", [("python", '{"code": "print(1)\\nprint(2)"}', None)]),
    ),
    (LlamaParser, "<|python_tag|>print(1)", ("print(1)", [])),
    (
        LlamaParser,
        '<|python_tag|>{"name": "a", "parameters": {"x": 1}}',
        ("", [("a", '{"x": 1}', None)]),
    ),
    (MistralParser, "Just [text].", ("Just [text].", [])),
    (
        MistralParser,
        'Well. [TOOL_CALLS] [{"name": "a", "arguments": {"x": 1}, "id": "abc123def"},'
        ' {"name": "b", "arguments": {}}]',
        ("Well.", [("a", '{"x": 1}', None), ("b", "{}", None)]),
    ),
    (
        MistralParser,
        '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]time[CALL_ID]abc[ARGS]{}',
        ("", [("weather", '{"city": "Oslo"}', None), ("time", "{}", "abc")]),
    ),
    (MistralParser, "[TOOL_CALLS] nothing", ("[TOOL_CALLS]nothing", [])),
    (qwen, "Just text, <b>bold</b>.", ("Just text, <b>bold</b>.", [])),
    (
        qwen,
        "Look:\n<tool_call>\n<function=weather>\n<parameter=city>\n7\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        ("Look:", [("weather", '{"city": "7", "days": 3}', None)]),
    ),
    (
        qwen,
        "<function=other>\n<parameter=x>\n[1, 2]\n</parameter>\n<parameter=y>\na\nb\n</parameter>"
        "\n</function>",
        ("", [("other", '{"x": [1, 2], "y": "a\\nb"}', None)]),
    ),
]


@pytest.mark.parametrize(("parser", "text", "expected"), CASES)
def test_calls_are_found_wherever_the_text_is_cut(
    parser: Callable[[], Parser], text: str, expected: Answer
) -> None:
    content, calls = read(parser(), [text])
    assert (content, [call[:2] for call in calls]) == (
        expected[0],
        [call[:2] for call in expected[1]],
    )
    assert read(parser(), list(text)) == read(parser(), [text])
    for cut in range(len(text)):
        assert read(parser(), [text[:cut], text[cut:]]) == (content, calls), cut


def test_arguments_are_told_while_they_are_written() -> None:
    for parser, before in (
        (HermesParser(), '<tool_call>{"name": "a", "arguments": '),
        (LlamaParser(), '{"name": "a", "parameters": '),
        (MistralParser(), "[TOOL_CALLS]a"),
        (MistralParser(), '[TOOL_CALLS][{"name": "a", "arguments": '),
    ):
        list(parser.feed(before))
        told = [part for piece in ('{"x"', ': "lo', 'ng"') for part in parser.feed(piece)]
        assert "".join(p.arguments for p in told if isinstance(p, CallDelta)) == '{"x": "long"'
        assert len(told) >= 3


@pytest.mark.parametrize(
    "parser", [HermesParser, LlamaParser, MistralParser, qwen], ids=lambda p: p.__name__
)
@given(
    text=st.lists(
        st.sampled_from(
            ['<tool_call>', "</tool_call>", "{", "}", '"name"', ":", '"a"', ",", '"arguments"',
             "[TOOL_CALLS]", "[", "]", "[ARGS]", "<|python_tag|>", "<function=a>", "</function>",
             "<parameter=x>", "</parameter>", "\\", '"', "\n", " ", "x", "1"]
        ),
        max_size=25,
    ).map("".join)
)  # fmt: skip
def test_whatever_is_written_is_read_the_same_in_pieces(
    parser: Callable[[], Parser], text: str
) -> None:
    whole = read(parser(), [text])
    assert read(parser(), list(text)) == whole


@pytest.mark.parametrize("text", ["", "no marks at all", "a < b, {x: 1}, [2]"])
def test_plain_text_is_never_changed(text: str) -> None:
    for parser in (HermesParser(), MistralParser(), qwen(), LlamaParser()):
        assert read(parser, [text]) == (text, [])


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("{{ '[TOOL_CALLS]' }}{{ call.function | tojson }}", MISTRAL),
        ("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", MISTRAL_NAMES),
        ("<tool_call>\n<function={{ name }}>", QWEN),
        ("<tool_call>\n{{ call | tojson }}", HERMES),
        ("<|start_header_id|>ipython<|end_header_id|>", LLAMA),
        ("<|im_start|>", None),
        ("<tool_call>{{ name }}<arg_key>", None),
    ],
)
def test_the_style_is_told_from_the_template(template: str, style: object) -> None:
    assert style_of(template) is style
