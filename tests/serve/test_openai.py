"""OpenAI's own client, unmodified: chat, streams, tools, forms, embeddings, models, errors."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import openai
import pytest
from pydantic import BaseModel, Field
from tests.serve.conftest import EMBEDDER, FIM, NAMES, SMOLLM2, STORIES, THINKER

HELLO = [{"role": "user", "content": "Say hello."}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "the weather", "parameters": CITY},
}


def chat(client: openai.OpenAI, **more):
    given = {"model": SMOLLM2, "messages": HELLO, "temperature": 0, "max_tokens": 12}
    return client.chat.completions.create(**given | more)


def test_a_chat_and_its_stream_say_the_same(openai_client):
    whole = chat(openai_client)
    choice = whole.choices[0]
    assert choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12

    chunks = list(chat(openai_client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 12
    assert {c.id for c in chunks} == {chunks[0].id}


def test_the_stream_helper_of_the_client(openai_client):
    with openai_client.chat.completions.stream(
        model=SMOLLM2, messages=HELLO, temperature=0, max_tokens=300
    ) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in events
    whole = chat(openai_client, max_tokens=300)
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_several_answers_have_seeds_of_their_own(openai_client):
    three = chat(openai_client, n=3, temperature=1, seed=5)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    second = chat(openai_client, temperature=1, seed=6)
    assert second.choices[0].message.content == texts[1]
    streamed = ["", "", ""]
    for chunk in chat(openai_client, n=3, temperature=1, seed=5, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_stop_strings_are_left_out(openai_client):
    free = chat(openai_client).choices[0].message.content
    stop = free[5:8]
    stopped = chat(openai_client, stop=[stop, "never said"]).choices[0]
    assert stopped.message.content == free[: free.index(stop)]
    assert stopped.finish_reason == "stop"


def test_logprobs_of_each_token(openai_client):
    choice = chat(openai_client, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token  # greedy takes the likeliest
        assert math.isclose(entry.top_logprobs[0].logprob, entry.logprob, abs_tol=1e-3)
        assert bytes(entry.bytes).decode() == entry.token
    streamed = [
        entry
        for chunk in chat(openai_client, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


def test_a_bias_forbids_and_forces(openai_client, http):
    ids = http.post("/tokenize", json={"content": "Hello", "model": SMOLLM2}).json()["tokens"]
    assert chat(openai_client).choices[0].message.content.startswith("Hello")
    forbidden = chat(openai_client, logit_bias={str(ids[0]): -100})
    assert not forbidden.choices[0].message.content.startswith("Hello")
    forced = chat(openai_client, logit_bias={str(ids[0]): 100}, max_tokens=3)
    assert forced.choices[0].message.content == "HelloHelloHello"


def test_a_tool_is_called_when_it_must_be(openai_client):
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = chat(openai_client, tools=[WEATHER], tool_choice=choice, max_tokens=60)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "weather"
        assert set(json.loads(call.function.arguments)) == {"city"}

    name, arguments, finishes = "", "", []
    for chunk in chat(
        openai_client, tools=[WEATHER], tool_choice="required", max_tokens=60, stream=True
    ):
        finishes.append(chunk.choices[0].finish_reason)
        for delta in chunk.choices[0].delta.tool_calls or ():
            assert delta.index == 0
            name += delta.function.name or ""
            arguments += delta.function.arguments
    assert name == "weather"
    assert arguments == call.function.arguments
    assert finishes[-1] == "tool_calls"


def test_the_result_of_a_tool_is_told_to_the_model(openai_client):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    messages = [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "minus 40 degrees and hail"},
    ]
    answer = chat(openai_client, messages=messages, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None
    without = chat(openai_client, messages=messages[:1])
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens + 20


def test_an_answer_of_a_given_form(openai_client):
    class Person(BaseModel):
        name: str = Field(max_length=20)
        age: int = Field(ge=0, le=120)

    parsed = openai_client.chat.completions.parse(
        model=SMOLLM2,
        messages=[{"role": "user", "content": "Describe Alice, who is thirty."}],
        response_format=Person,
        temperature=0,
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)
    free = chat(openai_client, response_format={"type": "json_object"}, max_tokens=200, seed=1)
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(free.choices[0].message.content), dict)
    else:
        assert free.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"guided_regex": r"[A-C]{3}/[0-9]"}, r"[A-C]{3}/[0-9]"),
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"guided_choice": ["red", "green"]}, "red|green"),
        ({"structured_outputs": {"regex": "x{2,4}y"}}, "x{2,4}y"),
    ],
    ids=str,
)
def test_regular_expressions_and_grammars(openai_client, form, expected):
    answer = chat(openai_client, extra_body=form, max_tokens=40)
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch(expected, answer.choices[0].message.content)


def test_completions(openai_client):
    story = openai_client.completions.create(
        model=STORIES, prompt="Once upon a time", max_tokens=8, temperature=0, logprobs=2
    )
    choice = story.choices[0]
    assert choice.text == ", there was a little girl"
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[1] == len(choice.logprobs.tokens[0])
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    streamed = openai_client.completions.create(
        model=STORIES, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text
    many = openai_client.completions.create(
        model=STORIES, prompt=["Once upon a time", "Lily"], max_tokens=8, temperature=0, n=2,
        echo=True,
    )  # fmt: skip
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert many.choices[1].text == "Once upon a time" + choice.text
    assert many.choices[2].text.startswith("Lily")


def test_responses(openai_client):
    answer = openai_client.responses.create(
        model=SMOLLM2, input="Say hello.", temperature=0, max_output_tokens=300,
        instructions="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    )  # fmt: skip
    assert answer.status == "completed"
    assert answer.output_text == chat(openai_client, max_tokens=300).choices[0].message.content
    with openai_client.responses.stream(
        model=SMOLLM2, input="Say hello.", temperature=0, max_output_tokens=300,
        instructions="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    ) as stream:  # fmt: skip
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert deltas == final.output_text == answer.output_text
    assert final.usage.output_tokens > 0

    cut = openai_client.responses.create(model=SMOLLM2, input="Say hello.", max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_responses_with_a_tool(openai_client):
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    first = openai_client.responses.create(
        model=SMOLLM2, input="Weather in Rome?", tools=[tool], tool_choice="required",
        temperature=0,
    )  # fmt: skip
    (call,) = first.output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert set(json.loads(call.arguments)) == {"city"}
    then = openai_client.responses.create(
        model=SMOLLM2,
        input=[
            {"role": "user", "content": "Weather in Rome?"},
            call.model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ],
        tools=[tool],
        tool_choice="none",
        max_output_tokens=5,
    )
    assert then.output[0].type == "message"


def test_models(openai_client):
    assert [model.id for model in openai_client.models.list()] == NAMES
    assert openai_client.models.retrieve(STORIES).id == STORIES
    with pytest.raises(openai.NotFoundError, match="smolm"):
        openai_client.models.retrieve("smolm")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "gpt-4"),
        ({"model": "../../etc/passwd"}, openai.NotFoundError, "name"),
        ({"model": "/etc/passwd"}, openai.NotFoundError, "name"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"top_p": 2}, openai.BadRequestError, "top_p"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, openai.BadRequestError, "role"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, openai.BadRequestError, "holds"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            openai.BadRequestError,
            "image_url",
        ),
        ({"extra_body": {"flavour": 1}}, openai.BadRequestError, "flavour"),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "web_search"),
        ({"tool_choice": "required"}, openai.BadRequestError, "none is offered"),
        ({"extra_body": {"guided_regex": "("}}, openai.BadRequestError, "form"),
        ({"extra_body": {"grammar": "root ::= ("}}, openai.BadRequestError, "form"),
        ({"stop": [""]}, openai.BadRequestError, "stop"),
        ({"n": 1000}, openai.BadRequestError, "n:"),
        ({"logit_bias": {"x": 1}}, openai.BadRequestError, "logit_bias"),
        ({"model": STORIES}, openai.UnprocessableEntityError, "chat template"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_openais_words(openai_client, change, error, words):
    with pytest.raises(error) as caught:
        chat(openai_client, **change)
    assert words in caught.value.message
    assert caught.value.body["type"] == "invalid_request_error"
    with pytest.raises(error):
        chat(openai_client, stream=True, **change)


def test_thoughts_are_split_from_the_answer(openai_client):
    thoughts = chat(openai_client, model=THINKER).choices[0].message
    assert thoughts.content == ""
    assert thoughts.reasoning_content
    usage = chat(openai_client, model=THINKER).usage
    assert usage.completion_tokens_details.reasoning_tokens >= 10
    streamed = [c.choices[0].delta for c in chat(openai_client, model=THINKER, stream=True)]
    assert not any(delta.content for delta in streamed)
    told = "".join(getattr(delta, "reasoning_content", "") for delta in streamed)
    assert told == thoughts.reasoning_content
    for without in (
        {"reasoning_effort": "none"},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
    ):
        message = chat(openai_client, model=THINKER, **without).choices[0].message
        assert message.content
        assert not hasattr(message, "reasoning_content")
    response = openai_client.responses.create(model=THINKER, input="Hello", max_output_tokens=5)
    assert [item.type for item in response.output] == ["reasoning"]


def test_forms_and_calls_without_thoughts(openai_client):
    more = {"model": THINKER, "reasoning_effort": "none", "max_tokens": 60}
    answer = chat(openai_client, response_format={"type": "json_object"}, stop=["}"], **more)
    assert answer.choices[0].message.content.startswith("{")
    called = chat(openai_client, tools=[WEATHER], tool_choice="required", **more)
    assert called.choices[0].message.tool_calls[0].function.name == "weather"


def test_a_gap_is_filled(openai_client, http):
    def ids(text: str) -> list[int]:
        told = http.post("/tokenize", json={"content": text, "model": THINKER})
        return told.json()["tokens"]

    before, after = "def add(a, b):\n", "\n\nprint(add(1, 2))"
    prompt = [FIM["fim_pre"], *ids(before), FIM["fim_suf"], *ids(after), FIM["fim_mid"]]
    given = {"model": THINKER, "max_tokens": 8, "temperature": 0}
    filled = openai_client.completions.create(prompt=before, suffix=after, **given)
    spelt = openai_client.completions.create(prompt=prompt, **given)
    assert filled.choices[0].text == spelt.choices[0].text
    assert filled.usage.prompt_tokens == len(prompt)


def test_embeddings(openai_client):
    texts = ["the river runs to the sea", "a card", "the river runs to the sea"]
    listed = openai_client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float")
    vectors = np.array([entry.embedding for entry in listed.data])
    assert vectors.shape == (3, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=0.01)
    assert listed.usage.prompt_tokens > 10
    packed = openai_client.embeddings.create(model=EMBEDDER, input=texts[0])  # base64 inside
    assert np.allclose(packed.data[0].embedding, vectors[0], atol=1e-6)
    short = openai_client.embeddings.create(
        model=EMBEDDER, input=texts[0], dimensions=16, encoding_format="float"
    )
    cut = vectors[0, :16] / np.linalg.norm(vectors[0, :16])
    assert np.allclose(short.data[0].embedding, cut, atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="tokens"):
        openai_client.embeddings.create(model=EMBEDDER, input="river " * 500)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        openai_client.embeddings.create(model=EMBEDDER, input="x", dimensions=100)
    with pytest.raises(openai.UnprocessableEntityError):
        chat(openai_client, model=EMBEDDER)


def test_a_model_for_text_makes_no_embeddings(openai_client):
    with pytest.raises(openai.UnprocessableEntityError, match="embedding"):
        openai_client.embeddings.create(model=SMOLLM2, input="x")


def test_a_model_without_such_tokens_fills_no_gaps(openai_client):
    with pytest.raises(openai.UnprocessableEntityError, match="suffix"):
        openai_client.completions.create(model=STORIES, prompt="a", suffix="b")
