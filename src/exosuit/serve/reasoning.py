"""Tells what a model thinks from what it answers, by the marks of its family.

Thinking comes first or not at all: an answer that mentions the marks later is left alone. Sources:
the chat templates of Qwen 3 and DeepSeek R1 (`<think>`), Magistral (`[THINK]`), Command A
(`<|START_THINKING|>`) and Seed-OSS (`<seed:think>`).
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.serve.markers import split_at


@dataclass(frozen=True)
class Marks:
    """What stands before and after a model's thoughts."""

    before: str
    after: str


USUAL = Marks("<think>", "</think>")
FAMILIES = (
    USUAL,
    Marks("[THINK]", "[/THINK]"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),
    Marks("<seed:think>", "</seed:think>"),
)


def marks_of(template: str) -> Marks | None:
    """The marks that a chat template's source knows; None for a model that does not think."""
    return next((marks for marks in FAMILIES if marks.after in template), None)


def is_open(prompt: str, marks: Marks) -> bool:
    """Whether the prompt's end begins the model's thoughts for it, as DeepSeek R1's does."""
    return prompt.rstrip().endswith(marks.before)


class Splitter:
    """Splits one answer as its text comes; space around thoughts belongs to the marks."""

    def __init__(self, marks: Marks, inside: bool = False) -> None:
        """`inside`: the prompt has opened the thoughts already."""
        self._marks = marks
        self._state = "inside" if inside else "before"
        self._held = ""
        self._has_begun = False  # to think

    def feed(self, text: str) -> tuple[str, str]:
        """The thoughts and the answer that are certain now."""
        self._held += text
        thoughts = ""
        if self._state == "before":
            start = self._held.lstrip()
            if start.startswith(self._marks.before):
                self._state = "inside"
                self._held = start[len(self._marks.before) :]
            elif self._marks.before.startswith(start):
                return "", ""
            else:
                self._state = "answer"
        if self._state == "inside":
            thoughts = self._think()
        if self._state == "after":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "answer"
        if self._state != "answer":
            return thoughts, ""
        answer, self._held = self._held, ""
        return thoughts, answer

    def flush(self) -> tuple[str, str]:
        """What is left when nothing follows."""
        held, self._held = self._held, ""
        return (held.rstrip(), "") if self._state == "inside" else ("", held)

    def _think(self) -> str:
        if not self._has_begun:
            self._held = self._held.lstrip()
            self._has_begun = bool(self._held)
        before, mark, rest = split_at(self._held, (self._marks.after,))
        if mark is not None:
            self._state, self._held = "after", rest
            return before.rstrip()
        certain = before.rstrip()  # space before the mark is the mark's
        self._held = self._held[len(certain) :]
        return certain
