"""What the system's own tools say, as text: the whole input of `doctor`.

A `Situation` is a set of answers by the name of the question. On a live machine `probes` asks; in
tests, and for somebody else's report, the answers come from a file. Nothing below this value runs a
program or opens a device, so every diagnosis can be repeated anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from exosuit.errors import CorruptFile

System = Literal["macos", "linux"]
FORMAT = "exosuit situation 1"
LONGEST_ANSWER = 16 << 20
"""Characters of one answer that are kept; the I/O registry of a large Mac has about two million."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question brought: its text, its exit status, whether it was given up on.

    `missing` is set where the tool or file does not exist at all.
    """

    text: str = ""
    status: int = 0
    timed_out: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Situation:
    """All answers of one machine at one moment."""

    system: System
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])

    def text(self, name: str) -> str:
        """The text of an answer; empty where the question was not asked or not answered."""
        answer = self.answers.get(name)
        return answer.text if answer else ""

    def has(self, name: str) -> bool:
        """Whether the question was asked and answered."""
        answer = self.answers.get(name)
        return answer is not None and not answer.timed_out and not answer.missing

    def timed_out(self, name: str) -> bool:
        answer = self.answers.get(name)
        return answer is not None and answer.timed_out

    def as_json(self) -> dict[str, Any]:
        answers = {name: asdict(answer) for name, answer in self.answers.items()}
        return {"format": FORMAT, "system": self.system, "answers": answers}

    def redacted(self) -> Situation:
        """The same without what names a person or a machine."""
        answers = {
            name: Answer(redact(a.text), a.status, a.timed_out, a.missing)
            for name, a in self.answers.items()
        }
        return Situation(self.system, answers)


def read_situation(path: Path) -> Situation:
    """A situation that `--report` wrote; CorruptFile if it is none."""

    def corrupt(cause: str) -> CorruptFile:
        return CorruptFile(
            f"{path} is no report of exosuit doctor",
            cause=cause,
            next="exosuit doctor --report FILE",
        )

    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise corrupt(str(error)) from error
    if not isinstance(found, dict):
        raise corrupt("it holds no object")
    bundle = cast("dict[str, Any]", found)
    bundle = cast("dict[str, Any]", bundle.get("situation", bundle))
    if bundle.get("format") != FORMAT or bundle.get("system") not in ("macos", "linux"):
        raise corrupt(f"it does not say {FORMAT!r}")
    try:
        answers = {str(name): Answer(**entry) for name, entry in bundle["answers"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise corrupt(f"its answers are malformed ({error})") from error
    if not all(isinstance(cast("Any", answer.text), str) for answer in answers.values()):
        raise corrupt("an answer is not text")
    return Situation(bundle["system"], answers)


_SECRETS: tuple[tuple[str, str], ...] = (
    (r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
    (r"/(Users|home)/[^/\s\"'<>]+", r"/\1/USER"),
    (r"(?i)\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b", "MAC-ADDRESS"),
    (
        r"(?i)((?:serial|switch_uid|uid_key|uuid|udid)[\w ()-]*\"?\s*[:=]\s*\"?)[^\s\",<>]+",
        r"\1REDACTED",
    ),
    (r"(<key>[^<]*(?:[Ss]erial|UUID|uid)[^<]*</key>\s*<(string|data)>)[^<]*", r"\1REDACTED"),
    (r"(?i)[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+", "EMAIL"),
    (r"\b(?:\d{1,3}\.){3}\d{1,3}\b(?=:\d)", "IP-ADDRESS"),
)


def redact(text: str) -> str:
    """Without serial numbers, unique ids, user names in paths, mail and hardware addresses."""
    for pattern, replacement in _SECRETS:
        text = re.sub(pattern, replacement, text)
    return text
