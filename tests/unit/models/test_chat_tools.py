"""Conversations with tools: templates that know them, in several ways, and one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from exosuit.errors import RequestError, TemplateFailed
from exosuit.models.chat import ChatTemplate, render_conversation
from exosuit.models.chat.tools import with_ids

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "", "parameters": {"type": "object"}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Oslo"}},
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
HERMES = (
    "{% for t in tools or [] %}[{{ t | tojson }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}"
)
TEXTUAL = (  # DeepSeek's joins the arguments as text
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '!' + c.function.arguments }}{% endfor %}{% endfor %}"
)


def rendered(source: str, messages: Any = CONVERSATION, tools: Any = (TOOL,), **more: Any) -> str:
    return render_conversation(ChatTemplate(source), messages, tools, more).text


@pytest.mark.parametrize(
    ("source", "knows"),
    [
        (PLAIN, False),
        (HERMES, True),
        (TEXTUAL, True),
        ("{% if tools %}{{ raise_exception('no tools here') }}{% endif %}x", False),
        ("{{ tools }}", True),
    ],
)
def test_whether_a_template_knows_tools_is_found_by_trying(source: str, knows: bool) -> None:
    assert ChatTemplate(source).knows_tools is knows


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    text = rendered(HERMES)
    assert text.startswith('[{"type": "function", "function": {"name": "weather"')
    assert '<assistant><tool_call>{"city": "Oslo"}<tool>sunny' in text


def test_arguments_become_text_where_the_template_wants_text() -> None:
    assert '<assistant>!{"city": "Oslo"}<tool>sunny' in rendered(TEXTUAL)


def test_a_template_that_knows_none_is_told_in_words() -> None:
    text = rendered(PLAIN)
    assert text.startswith("<system>Be brief.\n\n")
    assert text.count("<system>") == 1
    assert '{"name": "weather", "description": "", "parameters": {"type": "object"}}' in text
    assert (
        '<assistant><tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
        "<user><tool_response>\nsunny\n</tool_response>"
    ) in text


def test_results_of_calls_that_stand_together_become_one_message() -> None:
    result = CONVERSATION[-1]
    alternating = (
        "{% for m in messages %}{% if loop.index0 and messages[loop.index0 - 1].role == m.role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{% endfor %}"
    )
    messages = [*CONVERSATION, result, {"role": "user", "content": "And?"}]
    assert rendered(alternating, messages) == "<system><user><assistant><user>"


def test_calls_are_told_though_no_tool_is_offered_any_more() -> None:
    text = rendered(PLAIN, tools=())
    assert "<tool_call>" in text
    assert "<tools>" not in text


def test_a_conversation_without_tools_is_left_alone() -> None:
    plain = CONVERSATION[:2]
    assert rendered(PLAIN, plain, ()) == "<system>Be brief.<user>Weather?"


def test_variables_of_no_value_are_left_out() -> None:
    source = "{% if x is defined %}{{ x }}{% else %}none{% endif %}"
    assert rendered(source, CONVERSATION[:2], (), x=None) == "none"
    assert rendered(source, CONVERSATION[:2], (), x=False) == "False"


def test_faults_stay_faults() -> None:
    with pytest.raises(TemplateFailed):
        rendered(HERMES + "{{ 1 / 0 }}")
    with pytest.raises(RequestError):
        rendered("{{ tools }}{{ raise_exception('no') }}" + PLAIN)


@pytest.mark.parametrize("name", ["messages", "now", "self", "bos_token", "add_generation_prompt"])
def test_names_of_the_templates_own_cannot_be_given(name: str) -> None:
    with pytest.raises(RequestError, match=name):
        render_conversation(ChatTemplate(PLAIN), CONVERSATION[:2], (), {"x": 1, name: "y"})


MISTRAL = (
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}"
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('id') }}"
    "{% endif %}<{{ c.id }}>{% endfor %}"
    "{% if m.role == 'tool' %}"
    "{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{ raise_exception('id') }}{% endif %}</{{ m.tool_call_id }}>{% endif %}{% endfor %}"
)


def call(name: str, **more: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {}}, **more}


def test_calls_and_results_have_ids_that_mistral_takes() -> None:
    long = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call("a", id="call_0123456789abcdef")]},
        {"role": "tool", "content": "1", "tool_call_id": "call_0123456789abcdef"},
    ]
    given, answered = rendered(MISTRAL, long).removeprefix("weather").split(">", 1)
    assert answered == f"</{given[1:]}>"
    short = [long[0], {**long[1], "tool_calls": [call("a", id="abcdef012")]},
             {**long[2], "tool_call_id": "abcdef012"}]  # fmt: skip
    assert rendered(MISTRAL, short) == "weather<abcdef012></abcdef012>"


def test_results_without_ids_find_their_calls() -> None:
    """Ollama's have a name at most."""
    calls = {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b"), call("c")]}
    results = [
        {"role": "tool", "content": "1", "name": "b"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
    ]
    found = with_ids([calls, *results])
    a, b, c = (entry["id"] for entry in found[0]["tool_calls"])
    assert len({a, b, c}) == 3
    assert [message["tool_call_id"] for message in found[1:]] == [b, a, c]


def test_a_call_without_words_has_the_content_that_the_template_expects() -> None:
    looks = HERMES.replace(
        "{{ m.content }}", "{% if m.content is not none %}[{{ m.content }}]{% endif %}"
    )
    assert "<assistant><tool_call>" in rendered(looks)
    assert "<assistant><tool_call>" in rendered(HERMES)


def test_tools_can_be_told_in_words_to_any_template() -> None:
    text = render_conversation(ChatTemplate(HERMES), CONVERSATION, [TOOL], in_words=True).text
    assert "<tools>" in text
    assert '<tool_call>\n{"name": "weather"' in text
