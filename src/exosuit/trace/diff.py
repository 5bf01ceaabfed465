"""Two tapes side by side: aligned by step, compared by access, silent about time.

Repeats count as one, since how often a register was polled differs from day to day.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import zip_longest

from exosuit.trace.decode import Decoder
from exosuit.trace.tape import Kind, Record, Tape


def diff(old: Tape, new: Tape, context: int = 3) -> Iterator[str]:
    """Lines of a unified difference; none if the tapes tell the same story."""
    if old.chip != new.chip:
        yield f"-chip {old.chip}"
        yield f"+chip {new.chip}"
    ours, theirs = list(_steps(old)), list(_steps(new))
    for before, after in zip_longest(ours, theirs):
        name = (before or after or ("", []))[0]
        old_name = before[0] if before else "nothing"
        if before is None or after is None or before[0] != after[0]:
            yield f"@@ step {old_name} became {after[0] if after else 'nothing'} @@"
        old_lines = before[1] if before else []
        new_lines = after[1] if after else []
        yield from difflib.unified_diff(old_lines, new_lines, name, name, "", "", context, "")


def _steps(tape: Tape) -> Iterator[tuple[str, list[str]]]:
    """Each step's name and its accesses in words, repeats folded."""
    decoder = Decoder(tape)
    name = "start"
    lines: list[str] = []
    for record in tape.records:
        if record.kind is Kind.STEP:
            yield name, lines
            name, lines = record.region, []
        else:
            lines.append(decoder.follow(_once(record)))
    yield name, lines


def _once(record: Record) -> Record:
    return Record(
        record.t_ns, record.kind, record.region, record.offset, record.width, record.value
    )
