"""The transcripts in docs/server.md are true: each command answers again in the same fields."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serve_fields import kinds
from tests.serve.conftest import NAMES, Served

PAGE = (Path(__file__).parents[2] / "docs/server.md").read_text()
TRANSCRIPTS = re.findall(r"^```console\n\$ (curl .*?)\n((?:\{|data: ).*?)\n```$", PAGE, re.S | re.M)


def parsed(text: str) -> list[Any]:
    """JSON objects of a whole answer, of lines, or of events."""
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line)
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said(answers: list[Any]) -> list[str]:
    """Everything that the model wrote."""
    wanted = ("content", "text", "response", "arguments")
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.extend(value[key] for key in wanted if isinstance(value.get(key), str))
            value = list(value.values())
        if isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(answers)
    return found


def steady(fields: dict[str, str]) -> dict[str, str]:
    """Rates are null where an answer was too short to measure, which depends on the machine."""
    return {name: "rate" if "predicted_per" in name else kind for name, kind in fields.items()}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("command", "shown"), TRANSCRIPTS, ids=lambda text: text[:60])
def test_transcripts_are_true(served: Served, command: str, shown: str) -> None:
    asked = command.replace("http://localhost:11434", served.address)
    result = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, timeout=60, check=True
    )
    now, then = parsed(result.stdout), parsed(shown)
    if "/api/tags" in command:  # this server has more models than the page's
        now[0]["models"] = [m for m in now[0]["models"] if m["model"] == "smollm2:latest"]
        assert len(NAMES) > 1
    assert steady(kinds(now)) == steady(kinds(then))
    if "temperature" in command:
        assert said(now) == said(then)


def test_the_page_has_transcripts_of_every_dialect() -> None:
    commands = " ".join(command for command, _ in TRANSCRIPTS)
    assert len(TRANSCRIPTS) >= 15
    for path in ("/v1/chat/completions", "/v1/responses", "/api/chat", "/v1/messages", "/tokenize"):
        assert path in commands
