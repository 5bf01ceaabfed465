"""The composed situations under tests/data/macos, as values."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from exosuit.advise.situation import Answer, Situation

FOLDER = Path(__file__).parents[2] / "data" / "macos"


@dataclass(frozen=True)
class Recorded:
    name: str
    note: str
    layer: str
    next: str
    warnings: list[str]
    situation: Situation


def load(name: str) -> Recorded:
    told = tomllib.loads((FOLDER / name / "situation.toml").read_text("utf-8"))
    answers: dict[str, Answer] = {}
    for folder in (FOLDER / "base", FOLDER / name):
        for path in folder.iterdir():
            if path.name != "situation.toml":
                answers[path.stem] = Answer(path.read_text("utf-8"))
    for question in told["absent"]:
        answers.pop(question)
    for question in told["timed_out"]:
        answers[question] = Answer(timed_out=True, status=-1)
    situation = Situation("macos", answers)
    return Recorded(name, told["note"], told["layer"], told["next"], told["warnings"], situation)


def names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/situation.toml"))
