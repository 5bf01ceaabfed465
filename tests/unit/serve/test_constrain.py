"""Masks against what they must allow: forms, thoughts before them, forced calls of every style."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from exosuit.errors import RequestError
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.constrain import (
    ANY_OBJECT,
    LONGEST_FORM,
    Constraints,
    Form,
    GrammarConstraint,
    Grammars,
    constraints_for,
    grammars_of,
)
from exosuit.serve.reasoning import USUAL
from exosuit.serve.tools import Tool
from exosuit.serve.tools.styles import HERMES, LLAMA, MISTRAL, MISTRAL_NAMES, QWEN

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import vocabularies

CITY = {
    "type": "object",
    "properties": {"days": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["city"],
}
TOOLS = [Tool("weather", "", CITY), Tool("time")]


@pytest.fixture(scope="module", params=["smollm2", "stories", "llama-bpe", "phi-3"])
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    name = request.param
    if name in ("smollm2", "stories"):
        return Tokenizer.from_metadata(getattr(vocabularies, name)(shared))
    return Tokenizer.from_metadata(vocabularies.reference(shared, name))


def allows(constraint: GrammarConstraint, token: int) -> bool:
    mask = constraint.mask()
    return bool(mask[token // 32] >> np.uint32(token % 32) & np.uint32(1))


def follow(tokenizer: Tokenizer, constraint: GrammarConstraint, text: str) -> bool:
    """Whether the text may be written, and the answer end after it."""
    for token in tokenizer.encode(text, add_special=False, parse_special=True, continues=True):
        if not allows(constraint, token):
            return False
        constraint.accept(token)
        assert not constraint.problem
    return any(allows(constraint, end) for end in tokenizer.end_tokens)


def accepts(tokenizer: Tokenizer, grammars: Grammars, text: str, **more: object) -> bool:
    constraint = constraints_for(tokenizer).make(grammars, **more)  # type: ignore[arg-type]
    assert constraint.mask().shape == (-(-tokenizer.vocabulary_size // 32),)
    assert constraint.mask().dtype == np.uint32
    return follow(tokenizer, constraint, text)


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (ANY_OBJECT, '{"a": [1, {"b": null}]}', "[1]"),
        (Form("schema", json.dumps(CITY)), '{"days": 3, "city": "Oslo"}', '{"days": 3}'),
        (Form("schema", '{"enum": ["red", "green"]}'), '"red"', '"blue"'),
        (Form("schema", "true"), "3.5", "x"),
        (Form("regex", r"[0-9]+/[a-c]{2}"), "12/ab", "12/ax"),
        (Form("regex", r"\d{2}\/\d"), "12/3", "12-3"),
        (Form("gbnf", 'root ::= "yes" | "no" [!]+'), "no!!", "maybe"),
        (Form("lark", 'start: "a" ("b")*'), "abbb", "b"),
    ],
    ids=str,
)
def test_forms(tokenizer: Tokenizer, form: Form, right: str, wrong: str) -> None:
    grammars = grammars_of(form)
    assert accepts(tokenizer, grammars, right)
    assert not accepts(tokenizer, grammars, wrong)
    assert not accepts(tokenizer, grammars, right[:-1] + "\n")


def test_json_is_written_one_way(tokenizer: Tokenizer) -> None:
    assert not accepts(tokenizer, grammars_of(ANY_OBJECT), '{\n"a": 1}')
    assert not accepts(tokenizer, grammars_of(ANY_OBJECT), '{"a":  1}')


def test_a_model_may_think_first(tokenizer: Tokenizer) -> None:
    grammars = grammars_of(ANY_OBJECT)
    thoughts = '<think>\nHm {"x": 3}?\n</think>\n\n{"a": 1}'
    assert accepts(tokenizer, grammars, thoughts, marks=USUAL)
    assert accepts(tokenizer, grammars, '{"a": 1}', marks=USUAL)
    assert accepts(tokenizer, grammars, 'Hm.</think>\n\n{"a": 1}', marks=USUAL, inside=True)
    assert not accepts(tokenizer, grammars, thoughts)
    assert not accepts(tokenizer, grammars, "<think>x</think>no", marks=USUAL)


@pytest.mark.parametrize(
    ("style", "one", "two"),
    [
        (
            HERMES,
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
            '\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
        ),
        (
            LLAMA,
            '{"name": "weather", "parameters": {"days": 2, "city": "Oslo"}}',
            '; {"name": "time", "parameters": {}}',
        ),
        (
            MISTRAL_NAMES,
            '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}',
            "[TOOL_CALLS]time[ARGS]{}",
        ),
        (
            QWEN,
            "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
            "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
            "\n<tool_call>\n<function=time>\n</function>\n</tool_call>",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_forced_calls(tokenizer: Tokenizer, style, one: str, two: str) -> None:
    spell = constraints_for(tokenizer).spell
    pattern = style.pattern(TOOLS, spell)
    once = pattern.forced(spell, False)
    assert accepts(tokenizer, once, one)
    assert not accepts(tokenizer, once, one + two)
    assert accepts(tokenizer, pattern.forced(spell, True), one + two)
    assert not accepts(tokenizer, once, "Hello")
    assert not accepts(tokenizer, style.pattern(TOOLS[1:], spell).forced(spell, False), one)
    parts = list(style.parser(TOOLS).feed(one))
    assert [part.name for part in parts if not isinstance(part, str) and part.name] == ["weather"]


def test_a_forced_list_of_calls(tokenizer: Tokenizer) -> None:
    spell = constraints_for(tokenizer).spell
    call = '{"name": "time", "arguments": {}}'
    forced = MISTRAL.pattern(TOOLS, spell).forced(spell, False)
    assert accepts(tokenizer, forced, f"[TOOL_CALLS][{call}]")
    assert accepts(tokenizer, forced, f"[TOOL_CALLS][{call}, {call}]")


@pytest.mark.parametrize(
    ("style", "right", "wrong"),
    [
        (
            HERMES,
            'Let me see.\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>\nThere.',
            'Let me see.\n<tool_call>\n{"name": "boat", "arguments": {}}\n</tool_call>',
        ),
        (LLAMA, '{"name": "time", "parameters": {}}', '{"name": "boat", "parameters": {}}'),
        (LLAMA, "It is {late}.", '{"time": "late"}'),
        (
            MISTRAL,
            'Well. [TOOL_CALLS][{"name": "time", "arguments": {}}]',
            "Well. [TOOL_CALLS] time",
        ),
        (MISTRAL_NAMES, "[TOOL_CALLS]time[ARGS]{}", "[TOOL_CALLS]boat[ARGS]{}"),
        (
            QWEN,
            "Look:\n<tool_call>\n<function=time>\n</function>\n</tool_call>",
            "Look:\n<tool_call>\n<function=boat>\n</function>\n</tool_call>",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_calls_among_text_obey_their_schemas(
    tokenizer: Tokenizer, style, right: str, wrong: str
) -> None:
    spell = constraints_for(tokenizer).spell
    kept = style.pattern(TOOLS, spell).kept(spell)
    assert accepts(tokenizer, kept, right)
    assert not accepts(tokenizer, kept, wrong)
    assert accepts(tokenizer, kept, "Just text, with < and [ in it.")


def test_control_tokens_are_spelt_as_such(shared: Path) -> None:
    tokenizer = Tokenizer.from_metadata(vocabularies.smollm2(shared))
    constraints = Constraints(tokenizer)
    assert constraints.spell("<|im_start|>") == "<[1]>"
    assert constraints.spell("<tool_call>") == '"<tool_call>"'
    # A form never lets a control token through as text.
    constraint = constraints.make(grammars_of(Form("regex", r"(.|\n)*")))
    hidden = [id for id in range(17) if id not in tokenizer.end_tokens]
    assert not any(allows(constraint, id) for id in hidden)


@pytest.mark.parametrize(
    "form",
    [
        Form("schema", "{"),
        Form("schema", "3"),
        Form("schema", '{"type": "boat"}'),
        Form("schema", '{"$ref": "http://example.com/schema"}'),
        Form("schema", '{"type": "string", "pattern": "("}'),
        Form("schema", '{"type": "string", "contentEncoding": "base64", "not": {}}'),
        Form("schema", "[" * 50_000),
        Form("regex", "("),
        Form("gbnf", "root ::= ("),
        Form("lark", "nothing"),
        Form("lark", 'start: "a'),
        Form("regex", "x" * (LONGEST_FORM + 1)),
    ],
    ids=lambda form: form.text[:40],
)
def test_what_cannot_be_followed_is_refused(shared: Path, form: Form) -> None:
    tokenizer = Tokenizer.from_metadata(vocabularies.stories(shared))
    with pytest.raises(RequestError, match="form"):
        constraints_for(tokenizer).make(grammars_of(form))
