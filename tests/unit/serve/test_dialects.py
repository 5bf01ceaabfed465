"""The same answer in every dialect: thoughts, text, calls; whole, streamed, cut and broken."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from exosuit.errors import CardHung, DownloadFailed
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.facts import LoadedInfo, PullProgress

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))
import vocabularies
from scripted import ScriptedService, client

HELLO = [{"role": "user", "content": "Hello"}]
SAYS = (
    "<think>\nA tool, then.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}\n'
    "</tool_call>\n"
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
CALLS = [("weather", {"city": "Oslo", "days": [1, 2]}), ("time", {})]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("weather", "time")
]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "tools": TOOLS},
    "/v1/responses": {
        "input": "Hello", "tools": [{"type": "function", **tool["function"]} for tool in TOOLS]
    },
    "/api/chat": {"model": "toy", "messages": HELLO, "tools": TOOLS},
    "/v1/messages": {
        "model": "toy", "max_tokens": 50, "messages": HELLO, "thinking": {"type": "adaptive"},
        "tools": [{"name": n, "input_schema": SCHEMA} for n in ("weather", "time")],
    },
}  # fmt: skip
Told = tuple[str, str, list[tuple[str, Any]], str | None]


@pytest.fixture
def service(shared: Path) -> ScriptedService:
    return ScriptedService(Tokenizer.from_metadata(vocabularies.smollm2(shared)))


def whole(path: str, found: Any) -> Told:
    """Thoughts, content, calls and the reason of the end, out of a dialect's answer."""
    match path:
        case "/v1/chat/completions":
            choice = found["choices"][0]
            message = choice["message"]
            calls = [
                (c["function"]["name"], json.loads(c["function"]["arguments"]))
                for c in message.get("tool_calls", ())
            ]
            thoughts = message.get("reasoning_content", "")
            return thoughts, message["content"] or "", calls, choice["finish_reason"]
        case "/v1/responses":
            items = found["output"]
            texts = {
                kind: "".join(i["content"][0]["text"] for i in items if i["type"] == kind)
                for kind in ("reasoning", "message")
            }
            calls = [(i["name"], json.loads(i["arguments"])) for i in items if "arguments" in i]
            return texts["reasoning"], texts["message"], calls, found["status"]
        case "/api/chat":
            message = found["message"]
            calls = [
                (c["function"]["name"], c["function"]["arguments"])
                for c in message.get("tool_calls", ())
            ]
            return message.get("thinking", ""), message["content"], calls, found["done_reason"]
        case _:
            blocks = found["content"]
            calls = [(b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
            thoughts = "".join(b.get("thinking", "") for b in blocks)
            return thoughts, "".join(b.get("text", "") for b in blocks), calls, found["stop_reason"]


def joined(path: str, answer: Any) -> Told:
    """The same out of a stream."""
    thoughts = content = ""
    calls: dict[int, list[Any]] = {}
    finish = None
    match path:
        case "/v1/chat/completions":
            for event in answer.events:
                (choice,) = event["choices"]
                thoughts += choice["delta"].get("reasoning_content", "")
                content += choice["delta"].get("content", "")
                for call in choice["delta"].get("tool_calls", ()):
                    entry = calls.setdefault(call["index"], ["", ""])
                    entry[0] += call["function"].get("name", "")
                    entry[1] += call["function"]["arguments"]
                finish = choice["finish_reason"] or finish
            found = [(name, json.loads(text)) for name, text in calls.values()]
            return thoughts, content, found, finish
        case "/v1/responses":
            events = answer.events
            assert [e["sequence_number"] for e in events] == list(range(len(events)))
            return whole(path, events[-1]["response"])
        case "/api/chat":
            for line in answer.lines:
                message = line["message"]
                thoughts += message.get("thinking", "")
                content += message["content"]
                for call in message.get("tool_calls", ()):
                    function = call["function"]
                    calls[function["index"]] = [function["name"], function["arguments"]]
                finish = line.get("done_reason", finish)
            return thoughts, content, [tuple(call) for call in calls.values()], finish
        case _:
            blocks: list[dict[str, Any]] = []
            for event in answer.events:
                match event["type"]:
                    case "content_block_start":
                        assert event["index"] == len(blocks)
                        blocks.append(event["content_block"] | {"json": ""})
                    case "content_block_delta":
                        assert event["index"] == len(blocks) - 1
                        delta, block = event["delta"], blocks[-1]
                        block["json"] += delta.get("partial_json", "")
                        for key in ("text", "thinking"):
                            if key in delta:
                                block[key] += delta[key]
                    case "message_delta":
                        finish = event["delta"]["stop_reason"]
                    case _:
                        pass
            for block in blocks:
                if block["type"] == "tool_use":
                    block["input"] = json.loads(block["json"])
            return whole(path, {"content": blocks, "stop_reason": finish})


ENDS = {
    "/v1/chat/completions": ("tool_calls", "length", "stop"),
    "/v1/responses": ("completed", "incomplete", "completed"),
    "/api/chat": ("stop", "length", "stop"),
    "/v1/messages": ("tool_use", "max_tokens", "end_turn"),
}


@pytest.mark.parametrize("path", BODIES)
def test_thoughts_text_and_calls(service: ScriptedService, path: str) -> None:
    service.model.says = SAYS
    ask = client(service)
    expected = ("A tool, then.", "Let me look.", CALLS, ENDS[path][0])
    assert whole(path, ask(path, BODIES[path] | {"stream": False}).json) == expected
    assert joined(path, ask(path, BODIES[path] | {"stream": True})) == expected
    assert service.model.held == 0
    assert all(stream.is_cancelled for stream in service.model.streams)


@pytest.mark.parametrize("path", BODIES)
def test_plain_text_that_is_cut(service: ScriptedService, path: str) -> None:
    service.model.says, service.model.ends = "One, two, three", "length"
    ask = client(service)
    expected = ("", "One, two, three", [], ENDS[path][1])
    assert whole(path, ask(path, BODIES[path] | {"stream": False}).json) == expected
    assert joined(path, ask(path, BODIES[path] | {"stream": True})) == expected


@pytest.mark.parametrize("path", BODIES)
def test_what_is_no_call_stays_text(service: ScriptedService, path: str) -> None:
    service.model.says = 'So <tool_call>{"x": 1}</tool_call> it is.'
    ask = client(service)
    told = whole(path, ask(path, BODIES[path] | {"stream": False}).json)
    assert told[2:] == ([], ENDS[path][2])
    assert "<tool_call>" in told[1]
    assert joined(path, ask(path, BODIES[path] | {"stream": True})) == told


@pytest.mark.parametrize("path", BODIES)
def test_a_device_that_is_lost_is_told_in_the_dialect(service: ScriptedService, path: str) -> None:
    service.model.says = "One, two"
    service.model.ends = CardHung("the card hangs", cause="c", next="exosuit doctor")
    ask = client(service)
    answer = ask(path, BODIES[path] | {"stream": False})
    assert answer.status == 503
    assert "the card hangs" in answer.text
    streamed = ask(path, BODIES[path] | {"stream": True})
    assert streamed.status == 200
    assert "One" in streamed.text
    last = streamed.text.rstrip().rpartition("\n")[2].removeprefix("data: ")
    found = json.loads(last)
    assert "the card hangs" in json.dumps(found)
    match path:
        case "/v1/chat/completions":
            assert found["error"]["type"] == "server_error"
        case "/v1/responses":
            assert found["type"] == "response.failed"
        case "/api/chat":
            assert set(found) == {"error"}
        case _:
            assert found["type"] == "error"
            assert found["error"]["type"] == "overloaded_error"
    assert service.model.held == 0


def test_images_and_files_are_refused_by_name(service: ScriptedService) -> None:
    ask = client(service)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [image]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ("/api/chat", {"model": "toy", "messages": [HELLO[0] | {"images": ["xx"]}]}),
        (
            "/v1/messages",
            {"model": "toy", "max_tokens": 1,
             "messages": [{"role": "user", "content": [{"type": "document"}]}]},
        ),
    ):  # fmt: skip
        answer = ask(path, body)
        assert answer.status == 400
        assert "not supported" in answer.text


def test_variables_of_the_template_are_only_its_own(service: ScriptedService) -> None:
    ask = client(service)
    for name in ("messages", "template", "now", "self", "tools", "bos_token", "x", ""):
        body = {"messages": HELLO, "chat_template_kwargs": {name: "y"}}
        expected = 200 if name in ("template", "x", "") else 400
        assert ask("/v1/chat/completions", body).status == expected, name


def test_keep_alive_and_context_reach_the_service(service: ScriptedService) -> None:
    ask = client(service)
    body = {"model": "toy", "messages": HELLO, "stream": False}
    ask("/api/chat", body | {"keep_alive": "1h30m", "options": {"num_ctx": 2048}})
    ask("/api/chat", body | {"keep_alive": -1})
    ask("/v1/chat/completions", {"messages": HELLO, "keep_alive": 0})
    ask("/v1/chat/completions", {"messages": HELLO})
    assert service.opened == [
        ("toy", 5400.0, 2048), ("toy", math.inf, None), ("", 0.0, None), ("", None, None)
    ]  # fmt: skip
    assert (
        ask("/api/chat", {"model": "toy", "messages": [], "keep_alive": 0}).lines[0]["done_reason"]
        == "unload"
    )
    assert service.unloaded == ["toy"]


def test_sampling_is_each_dialects_own(service: ScriptedService) -> None:
    ask = client(service)
    ask("/v1/chat/completions", {"messages": HELLO})
    ask("/api/chat", {"model": "toy", "messages": HELLO})
    ask("/v1/messages", {"model": "toy", "max_tokens": 5, "messages": HELLO})
    ask("/v1/chat/completions", {"messages": HELLO, "repeat_last_n": 0, "repeat_penalty": 2,
                                 "top_k": -1, "seed": -1, "temperature": 1})  # fmt: skip
    openai, ollama, anthropic, odd = (request.sampling for request in service.model.asked)
    assert (openai.temperature, openai.top_k, openai.top_p, openai.min_p) == (0.8, 40, 0.95, 0.05)
    assert (ollama.top_p, ollama.min_p, ollama.repetition_penalty) == (0.9, 0.0, 1.1)
    assert (anthropic.temperature, anthropic.top_k, anthropic.top_p) == (1.0, 0, 1.0)
    assert (odd.repetition_penalty, odd.top_k, odd.temperature) == (1.0, 0, 1)
    assert openai.seed != ollama.seed


def test_a_pull_tells_how_far_it_is(service: ScriptedService) -> None:
    service.progress = [PullProgress("x.gguf", 5, None), PullProgress("x.gguf", 9, 10)]
    ask = client(service)
    lines = ask("/api/pull", {"model": "x"}).lines
    assert [line["status"] for line in lines] == [
        "pulling manifest", "pulling x.gguf", "pulling x.gguf", "success"
    ]  # fmt: skip
    assert "total" not in lines[1]
    assert (lines[2]["completed"], lines[2]["total"]) == (9, 10)
    assert ask("/api/pull", {"name": "x", "stream": False}).json == {"status": "success"}
    service.progress = [DownloadFailed("no network", cause="c", next="n")]
    assert "no network" in ask("/api/pull", {"model": "x"}).lines[-1]["error"]
    assert ask("/api/pull", {"model": "x", "stream": False}).status == 502
    assert ask("/api/pull", {}).status == 400


def test_what_is_loaded_and_for_how_long(service: ScriptedService) -> None:
    row = LoadedInfo("toy", "card:0", 7, 4096, 4, 1.0, None, 0, 0, "ab", "llama", 8_030_261_248,
                     "Q4_K")  # fmt: skip
    service.rows = [row]
    (told,) = client(service)("/api/ps").json["models"]
    assert told["name"] == "toy:latest"
    assert told["size_vram"] == 7
    assert told["expires_at"] > "2100"
    assert told["details"]["parameter_size"] == "8.0B"


def test_anthropics_clients_list_models_too(service: ScriptedService) -> None:
    listed = client(service)("/v1/models", **{"anthropic-version": "2023-06-01"}).json
    assert listed["data"][0]["id"] == "toy"
    assert listed["data"][0]["type"] == "model"
    assert listed["has_more"] is False


def test_a_browser_is_shown_the_page_and_a_client_that_somebody_is_there(
    service: ScriptedService,
) -> None:
    ask = client(service)
    assert ask("/").text == "Ollama is running"
    assert ask("/", accept="text/html").status in (302, 307)


def test_draining_is_not_ready(service: ScriptedService) -> None:
    service.is_draining = True
    ask = client(service)
    assert ask("/ready").status == 503
    assert ask("/health").status == 200
