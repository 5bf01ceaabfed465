"""The same requests to `exosuit serve` and to llama.cpp's server: which fields come back, and what.

    python -m benchmarks.serve_fields SmolLM2-135M-Instruct.Q4_1.gguf > docs/server-fields.md

Both run the same file at temperature 0. A table for each request: fields that only one of the two
sends, fields of different types, and whether the text is the same. Fields that agree are counted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serve_peers import Server, exosuit, llama_cpp

ASK = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"], "additionalProperties": False}  # fmt: skip
WEATHER = {"name": "weather", "description": "the weather of a city", "parameters": CITY}
TOOL = {"type": "function", "function": WEATHER}
CHAT: dict[str, Any] = {"messages": ASK, "max_tokens": 24, "temperature": 0}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Case:
    """One request; `text` is where its answer's text stands, dotted."""

    title: str
    path: str
    body: dict[str, Any] | None = None
    text: str = ""


CASES = (
    Case("Chat", CHAT_PATH, CHAT, "choices.0.message.content"),
    Case("Chat, streamed", CHAT_PATH,
         CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    Case("Chat with log-probabilities", CHAT_PATH, CHAT | {"logprobs": True, "top_logprobs": 2},
         "choices.0.message.content"),
    Case("Chat that must call a tool", CHAT_PATH,
         CHAT | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
         "choices.0.message.tool_calls.0.function.arguments"),
    Case("Chat held to a schema", CHAT_PATH, CHAT | {"response_format": FORM, "max_tokens": 60},
         "choices.0.message.content"),
    Case("Two answers", CHAT_PATH, CHAT | {"n": 2}, "choices.1.message.content"),
    Case("Completion", "/v1/completions",
         {"prompt": "Once upon a time, there was a little", "max_tokens": 24, "temperature": 0},
         "choices.0.text"),
    Case("Response", "/v1/responses",
         {"input": "Say hello.", "max_output_tokens": 24, "temperature": 0},
         "output.0.content.0.text"),
    Case("Anthropic's message", "/v1/messages",
         {"messages": ASK, "max_tokens": 24, "temperature": 0}, "content.0.text"),
    Case("Anthropic's message, streamed", "/v1/messages",
         {"messages": ASK, "max_tokens": 24, "temperature": 0, "stream": True}),
    Case("Anthropic's token count", "/v1/messages/count_tokens", {"messages": ASK}),
    Case("Models", "/v1/models"),
    Case("Tokens of a text", "/tokenize", {"content": "Hello, world", "with_pieces": True}),
    Case("Text of tokens", "/detokenize", {"tokens": [19556, 28, 905]}, "content"),
    Case("Health", "/health"),
    Case("Error: no messages", CHAT_PATH, {"max_tokens": 4}),
    Case("Error: temperature is text", CHAT_PATH, CHAT | {"temperature": "hot"}),
    Case("Error: a role nobody has", CHAT_PATH, CHAT | {"messages": [{"role": "boss",
                                                                     "content": "x"}]}),
    Case("Error: a broken schema", CHAT_PATH, CHAT | {"response_format": {
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boat"}}}}),
    Case("Error: more than the context", CHAT_PATH, CHAT | {"messages": [
        {"role": "user", "content": "word " * 9000}]}),
    Case("Error: embeddings of a model for text", "/v1/embeddings", {"input": "x"}),
    Case("Error: an unknown field", CHAT_PATH, CHAT | {"flavour": "vanilla"}),
    Case("Error: no such path", "/v1/nothing", {}),
)  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """`found` is JSON, or for a stream a list of its events."""

    status: int
    found: Any


def ask(server: Server, case: Case) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    body = None if case.body is None else json.dumps({"model": server.model, **case.body})
    headers = {"Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", case.path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    if case.body is not None and case.body.get("stream") and response.status == 200:
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        events = [json.loads(line) if line != "[DONE]" else line for line in lines]
        return Reply(response.status, events)
    return Reply(response.status, json.loads(text))


def fields(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names with types; entries of a list share one name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields(inner, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        if not value:
            yield at, "list"
        for inner in value:
            yield from fields(inner, f"{at}[]")
    else:
        yield (
            at,
            {bool: "boolean", int: "number", float: "number", str: "text"}.get(type(value), "null"),
        )


def kinds(found: Any) -> dict[str, str]:
    seen: dict[str, set[str]] = {}
    for name, kind in fields(found):
        seen.setdefault(name, set()).add(kind)
    return {name: " or ".join(sorted(kinds)) for name, kinds in seen.items()}


def pick(found: Any, path: str) -> Any:
    for part in path.split("."):
        try:
            found = found[int(part)] if part.isdigit() else found[part]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def table(case: Case, ours: Reply, theirs: Reply) -> Iterator[str]:
    yield f"### {case.title}"
    yield ""
    yield f"`{'GET' if case.body is None else 'POST'} {case.path}`" + (
        "" if case.body is None else f" `{shortened(json.dumps(case.body))}`"
    )
    yield ""
    yield "| | exosuit | llama.cpp |"
    yield "|---|---|---|"
    yield f"| status | {ours.status} | {theirs.status} |"
    if case.text:
        said, their = pick(ours.found, case.text), pick(theirs.found, case.text)
        if said == their:
            yield f"| text | {quoted(said)} | the same |"
        else:
            yield f"| text | {quoted(said)} | {quoted(their)} |"
    if ours.status >= 400 or theirs.status >= 400:
        yield f"| says | {quoted(message(ours))} | {quoted(message(theirs))} |"
    if ours.status != theirs.status and 200 in (ours.status, theirs.status):
        yield ""
        return
    mine, other = kinds(ours.found), kinds(theirs.found)
    agree = sum(mine[name] == other.get(name) for name in mine)
    for name in dict.fromkeys([*mine, *other]):
        if mine.get(name) != other.get(name):
            yield f"| `{name or 'the whole'}` | {mine.get(name, '')} | {other.get(name, '')} |"
    yield f"| fields that agree | {agree} of {len(mine)} | {agree} of {len(other)} |"
    yield ""


def message(reply: Reply) -> str:
    error = reply.found.get("error", "") if isinstance(reply.found, dict) else ""
    return error.get("message", "") if isinstance(error, dict) else str(error)


def shortened(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:160]} ..."


def quoted(value: Any) -> str:
    if value is None:
        return ""
    return shortened(json.dumps(value, ensure_ascii=False).strip('"')).replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with exosuit(arguments.model, 2, arguments.threads) as server:
        ours = [ask(server, case) for case in CASES]
    with llama_cpp(arguments.model, 2, arguments.threads) as server:
        theirs = [ask(server, case) for case in CASES]
    print("# Fields of the answers, beside llama.cpp's server\n")
    print(
        f"Made by `python -m benchmarks.serve_fields {arguments.model.name}`: both servers run the"
        " same file,\nat temperature 0. Only what differs is listed; `[]` stands for the entries of"
        " a list.\n"
    )
    for case, our, their in zip(CASES, ours, theirs, strict=True):
        print("\n".join(table(case, our, their)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
