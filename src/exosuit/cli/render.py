"""Everything that reaches the terminal: errors in three lines, JSON, tables, progress.

Results go to stdout, the rest to stderr; colours and moving bars only where a terminal reads them.
`print` is used here and nowhere else.
"""

from __future__ import annotations

import json
import sys
import traceback as tracebacks
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from exosuit.errors import ExosuitError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def error(problem: ExosuitError) -> None:
    """What happened, why, what to type next; on stderr, in three lines whatever they hold."""
    red, plain = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    what, cause, step = (_one_line(t) for t in (problem.what, problem.cause, problem.next))
    print(f"{red}error:{plain} {what}\ncause: {cause}\nnext:  {step}", file=sys.stderr)


def traceback() -> None:
    """The stack of the exception being handled, for --debug."""
    tracebacks.print_exc()


def note(text: str) -> None:
    """A line for the user that is no result."""
    print(_one_line(text), file=sys.stderr, flush=True)


def text(line: str) -> None:
    """A line of the result."""
    print(_one_line(line))


def stream(piece: str) -> None:
    """A piece of a result, shown at once; on a terminal without what would control it."""
    encoding = sys.stdout.encoding or "utf-8"
    piece = piece.encode(encoding, "replace").decode(encoding)
    if sys.stdout.isatty():
        piece = "".join("\ufffd" if _controls(c) else c for c in piece)
    print(piece, end="", flush=True)


def _controls(character: str) -> bool:
    return (character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f"


def document(value: Any) -> None:
    """The one JSON document of a `--json` command; bytes that were no UTF-8 stay as escapes."""
    document = json.dumps(value, indent=2, ensure_ascii=False)
    print(document.encode("utf-8", "backslashreplace").decode())


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, headings in capitals."""
    lines = [[heading.upper() for heading in headings]]
    lines += [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip())


def _one_line(text: str) -> str:
    """Without line breaks and other control characters: files and servers may have sent it."""
    return "".join(c if c.isprintable() else " " for c in text)


class Bar:
    """A `Progress` on stderr: a moving bar on a terminal, a line per quarter elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._total, self._told = "", None, 0

    def start(self, label: str, total_bytes: int | None, done_bytes: int = 0) -> None:
        self.finish()
        self._label, self._total, self._told = label, total_bytes, -1
        if sys.stderr.isatty():
            self._bar = _moving_bar()
            self._task = self._bar.add_task(label, total=total_bytes, completed=done_bytes)
            self._bar.start()
        else:
            self.update(done_bytes)

    def update(self, done_bytes: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done_bytes)
            return
        quarter = 4 * done_bytes // self._total if self._total else 0
        if quarter > self._told:
            self._told = quarter
            note(f"{self._label}: {25 * quarter} %" if self._total else self._label)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def note(self, text: str) -> None:
        note(text)


def _moving_bar() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
