"""Ollama's own client, unmodified: chat, generate, forms, tools, the store, errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import ollama
import pytest
from tests.serve.conftest import EMBEDDER, NAMES, SMOLLM2, STORIES, THINKER

HELLO = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0, "num_predict": 12, "repeat_penalty": 1.0}


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


def test_a_chat_and_its_stream_say_the_same(ollama_client):
    whole = ollama_client.chat(SMOLLM2, HELLO, options=GREEDY)
    assert whole.done
    assert whole.done_reason == "length"
    assert whole.message.content
    assert whole.eval_count == 12
    assert whole.prompt_eval_count > 10
    assert whole.total_duration >= whole.eval_duration > 0
    lines = list(ollama_client.chat(SMOLLM2, HELLO, options=GREEDY, stream=True))
    assert "".join(line.message.content for line in lines) == whole.message.content
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1].eval_count == 12


def test_generate_through_the_template_and_raw(ollama_client):
    answered = ollama_client.generate(SMOLLM2, "Say hello.", options=GREEDY)
    assert answered.response == ollama_client.chat(SMOLLM2, HELLO, options=GREEDY).message.content
    raw = ollama_client.generate(STORIES, "Once upon a time", raw=True, options=GREEDY)
    assert raw.response.startswith(", there was a little girl named")
    assert raw.context is None
    system = ollama_client.generate(SMOLLM2, "Say hello.", system="Speak French.", options=GREEDY)
    assert system.response != answered.response
    again = ollama_client.generate(
        SMOLLM2, "What did I say?", context=answered.context, options=GREEDY
    )
    assert again.prompt_eval_count > len(answered.context)


def test_an_answer_of_a_given_form(ollama_client):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    answer = ollama_client.chat(SMOLLM2, HELLO, format=schema, options={"temperature": 0})
    assert 0 <= json.loads(answer.message.content)["age"] <= 99
    any_object = ollama_client.generate(SMOLLM2, "Describe a cat as JSON", format="json",
                                        options=GREEDY)  # fmt: skip
    assert any_object.response.startswith("{")


def test_tools_are_offered_and_results_taken(ollama_client):
    messages = [
        {"role": "user", "content": "Weather in Oslo?"},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]
    with_tool = ollama_client.chat(SMOLLM2, messages, tools=[weather], options=GREEDY)
    without = ollama_client.chat(SMOLLM2, messages[:1], options=GREEDY)
    assert with_tool.prompt_eval_count > without.prompt_eval_count + 50
    assert with_tool.message.content


def test_thoughts_are_split_from_the_answer(ollama_client):
    thought = ollama_client.chat(THINKER, HELLO, options=GREEDY, think=True)
    assert thought.message.thinking
    assert not thought.message.content
    lines = list(ollama_client.chat(THINKER, HELLO, options=GREEDY, stream=True))
    assert "".join(line.message.thinking or "" for line in lines) == thought.message.thinking
    answer = ollama_client.chat(THINKER, HELLO, options=GREEDY, think=False)
    assert answer.message.content
    assert answer.message.thinking is None
    generated = ollama_client.generate(THINKER, "Say hello.", options=GREEDY, think=True)
    assert generated.thinking == thought.message.thinking
    assert {"tools", "thinking", "insert"} <= set(ollama_client.show(THINKER).capabilities)


def test_a_gap_is_filled(ollama_client):
    filled = ollama_client.generate(THINKER, "a = ", suffix="\nprint(a)", options=GREEDY)
    assert filled.prompt_eval_count > 8
    assert filled.response


def test_embeddings(ollama_client):
    texts = ["the river runs", "to the sea"]
    found = ollama_client.embed(EMBEDDER, texts)
    vectors = np.array(found.embeddings)
    assert vectors.shape == (2, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    old = ollama_client.embeddings(EMBEDDER, texts[0])
    assert np.allclose(old.embedding, vectors[0], atol=1e-6)
    long = "river " * 500
    assert len(ollama_client.embed(EMBEDDER, long).embeddings) == 1
    with pytest.raises(ollama.ResponseError, match="tokens"):
        ollama_client.embed(EMBEDDER, long, truncate=False)
    assert ollama_client.embed(EMBEDDER, []).embeddings == []


def test_logprobs(ollama_client):
    answer = ollama_client.chat(SMOLLM2, HELLO, options=GREEDY, logprobs=True, top_logprobs=2)
    assert "".join(entry.token for entry in answer.logprobs) == answer.message.content
    assert all(len(entry.top_logprobs) == 2 for entry in answer.logprobs)


def test_what_is_there_and_what_is_loaded(ollama_client):
    models = ollama_client.list().models
    assert [model.model for model in models] == [f"{name}:latest" for name in NAMES]
    listed = {model.model: model for model in models}["smollm2:latest"]
    assert listed.details.quantization_level == "Q4_1"
    assert len(listed.digest) == 64
    shown = ollama_client.show("smollm2:latest")
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert "completion" in shown.capabilities
    assert "im_start" in shown.template

    assert ollama_client.generate(STORIES, keep_alive="2h").done_reason == "load"
    running = {model.name: model for model in ollama_client.ps().models}
    left = running["stories:latest"].expires_at - datetime.now(UTC)
    assert 7100 < left.total_seconds() < 7300
    assert running["stories:latest"].size_vram == 0
    assert ollama_client.generate(STORIES, keep_alive=0).done_reason == "unload"
    assert "stories:latest" not in {model.name for model in ollama_client.ps().models}


def test_a_model_is_copied_and_deleted(ollama_client):
    ollama_client.copy(STORIES, "tales")
    assert "tales:latest" in {model.model for model in ollama_client.list().models}
    said = ollama_client.generate("tales", "Once upon a time", options=GREEDY).response
    assert said.startswith(", there was a little girl named")
    ollama_client.delete("tales")
    assert "tales:latest" not in {model.model for model in ollama_client.list().models}


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda c: c.chat("nope", HELLO), 404, "nope"),
        (lambda c: c.chat(STORIES, HELLO), 422, "chat template"),
        (lambda c: c.chat(SMOLLM2, HELLO, think=True), 400, "thinking"),
        (lambda c: c.chat(SMOLLM2, HELLO, options={"temperature": -1}), 400, "temperature"),
        (lambda c: c.chat(SMOLLM2, [{"role": "boss", "content": "x"}]), 400, "role"),
        (lambda c: c.generate(SMOLLM2, "x", images=[b"\x89PNG"]), 400, "images"),
        (lambda c: c.generate(SMOLLM2, "x", template="{{ .Prompt }}"), 400, "template"),
        (lambda c: c.generate(SMOLLM2, "x", keep_alive="soon"), 400, "keep_alive"),
        (lambda c: c.generate(SMOLLM2, "x", suffix="y"), 422, "suffix"),
        (lambda c: c.embed(SMOLLM2, "x"), 422, "embedding"),
        (lambda c: c.show("nope"), 404, "nope"),
        (lambda c: c.delete("../x"), 404, "name"),
        (lambda c: c.copy(STORIES, "../../x"), 400, "name"),
    ],
)
def test_mistakes_are_told_in_ollamas_words(ollama_client, call, status, words):
    with pytest.raises(ollama.ResponseError, match=words) as caught:
        call(ollama_client)
    assert caught.value.status_code == status


def test_a_pull_of_nothing_is_told_in_its_stream(ollama_client):
    with pytest.raises(ollama.ResponseError, match="nowhere"):
        list(ollama_client.pull("nowhere", stream=True))
    with pytest.raises(ollama.ResponseError, match="nowhere"):
        ollama_client.pull("nowhere")


def test_somebody_is_there(http):
    assert http.get("/").text == "Ollama is running"
    assert http.head("/").status_code == 200
    assert http.get("/api/version").json()["version"]
