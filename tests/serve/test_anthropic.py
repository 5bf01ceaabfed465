"""Anthropic's own client, unmodified: messages, streams, tools, forms, counting, errors."""

from __future__ import annotations

import json

import anthropic
import pytest
from tests.serve.conftest import SMOLLM2, STORIES, THINKER

HELLO = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0, "top_k": 1}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "the weather", "input_schema": CITY}


def ask(client: anthropic.Anthropic, **more):
    given = {"model": SMOLLM2, "messages": HELLO, "max_tokens": 12, "extra_body": GREEDY}
    return client.messages.create(**given | more)


def test_a_message_and_its_stream_say_the_same(anthropic_client):
    whole = ask(anthropic_client)
    (block,) = whole.content
    assert block.text
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 12
    with anthropic_client.messages.stream(
        model=SMOLLM2, messages=HELLO, max_tokens=12, extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text == final.content[0].text
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 12


def test_system_blocks_and_a_begun_answer(anthropic_client):
    plain = ask(anthropic_client).content[0].text
    french = ask(anthropic_client, system=[{"type": "text", "text": "Speak French."}])
    assert french.content[0].text != plain
    begun = [*HELLO, {"role": "assistant", "content": plain[:6]}]
    assert ask(anthropic_client, messages=begun, max_tokens=4).content[0].text
    together = plain[:6] + ask(anthropic_client, messages=begun, max_tokens=3).content[0].text
    assert plain.startswith(together)


def test_a_stop_sequence_is_named(anthropic_client):
    free = ask(anthropic_client).content[0].text
    stop = free[5:8]
    answer = ask(anthropic_client, stop_sequences=["never", stop])
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence == stop
    assert answer.content[0].text == free[: free.index(stop)]


def test_a_tool_is_used_and_answered(anthropic_client):
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        answer = ask(anthropic_client, tools=[WEATHER], tool_choice=choice, max_tokens=60)
        assert answer.stop_reason == "tool_use"
        (block,) = answer.content
        assert block.type == "tool_use"
        assert block.name == "weather"
        assert set(block.input) == {"city"}
    with anthropic_client.messages.stream(
        model=SMOLLM2, messages=HELLO, max_tokens=60, tools=[WEATHER],
        tool_choice={"type": "any"}, extra_body=GREEDY,
    ) as stream:  # fmt: skip
        final = stream.get_final_message()
    assert final.content[0].input == block.input
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "minus 40 degrees"}
    then = ask(
        anthropic_client,
        messages=[
            *HELLO,
            {"role": "assistant", "content": [block.model_dump(exclude_none=True)]},
            {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
        ],
        tools=[WEATHER],
        tool_choice={"type": "none"},
    )
    assert then.content[0].type == "text"


def test_an_answer_of_a_given_form(anthropic_client):
    answer = ask(
        anthropic_client,
        max_tokens=60,
        output_config={"format": {"type": "json_schema", "schema": CITY}},
    )
    assert set(json.loads(answer.content[0].text)) == {"city"}


def test_thoughts_are_blocks_of_their_own(anthropic_client):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = ask(anthropic_client, model=THINKER, thinking=thinking)
    assert [block.type for block in answer.content] == ["thinking"]
    with anthropic_client.messages.stream(
        model=THINKER, messages=HELLO, max_tokens=12, thinking=thinking, extra_body=GREEDY
    ) as stream:
        assert "thinking" in {event.type for event in stream}
        assert stream.get_final_message().content[0].thinking == answer.content[0].thinking
    without = ask(anthropic_client, model=THINKER)
    assert [block.type for block in without.content] == ["text"]


def test_tokens_are_counted_as_they_are_used(anthropic_client):
    for more in ({}, {"system": "Be brief."}, {"tools": [WEATHER]}):
        counted = anthropic_client.messages.count_tokens(model=SMOLLM2, messages=HELLO, **more)
        usage = ask(anthropic_client, max_tokens=1, **more).usage
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "claude"}, anthropic.NotFoundError, "claude"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"extra_body": {"flavour": 1}}, anthropic.BadRequestError, "flavour"),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "none is offered"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            anthropic.BadRequestError,
            "image",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
         anthropic.BadRequestError, "web_search"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]},
         anthropic.BadRequestError, "holds"),
        ({"model": STORIES}, anthropic.UnprocessableEntityError, "chat template"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_told_in_anthropics_words(anthropic_client, change, error, words):
    with pytest.raises(error) as caught:
        ask(anthropic_client, **change)
    assert words in caught.value.body["error"]["message"]
    assert caught.value.body["type"] == "error"
    assert caught.value.request_id
