"""The composed situations under tests/data/macos, as values.

    python -m tests.unit.advise.macos_situations docs/doctor.md

rewrites the tables of that page, between its marks: what doctor says to each, and what it knows of
failed boots.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from exosuit.advise.doctor import diagnose
from exosuit.advise.failure import meanings
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


def table() -> str:
    """What doctor says to each situation, as Markdown."""
    lines = ["| situation | broken layer | found | next |", "|---|---|---|---|"]
    for name in names():
        recorded = load(name)
        diagnosis = diagnose(recorded.situation)
        check = diagnosis.broken or next(iter(diagnosis.warnings), None)
        layer = diagnosis.broken.layer if diagnosis.broken else "none"
        found, step = (check.found, check.next) if check else ("", "")
        cells = (recorded.note, layer if diagnosis.broken or not check else "warning", found, step)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def meanings_table() -> str:
    """What doctor knows of failed boots, as Markdown."""
    lines = ["| the failed step's error | means | then | seen in |", "|---|---|---|---|"]
    for row in meanings():
        values = ", ".join(f"{value:#x}" for value in row.values)
        field = f"carries `{row.field}`{f' = {values}' if values else ''}" if row.field else ""
        text, step = f'says "{row.text}"' * bool(row.text), f"in `{row.step}`" * bool(row.step)
        when = ", ".join(filter(None, (step, text, field)))
        lines.append(f"| {when} | {row.says} | {row.next or 'as the error says'} | {row.source} |")
    return "\n".join(lines) + "\n"


def rewrite(page: str) -> str:
    for name, made in (("situations", table()), ("meanings", meanings_table())):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = before + begin + made + end + after
    return page


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(rewrite(target.read_text("utf-8")), "utf-8")
