"""Finds markers in text that comes in pieces, wherever the pieces are cut."""

from __future__ import annotations

from collections.abc import Sequence


def split_at(text: str, markers: Sequence[str]) -> tuple[str, str | None, str]:
    """What is before the first marker, the marker, and the rest.

    Without a whole marker: what is certainly before one, None, and the end of the text that may be
    the beginning of one. Of two markers at one place the longer counts.
    """
    found = [(at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0]
    if found:
        at, _, marker = min(found)
        return text[:at], marker, text[at + len(marker) :]
    keep = begun(text, markers)
    return text[: len(text) - keep], None, text[len(text) - keep :]


def split_content(text: str, markers: Sequence[str]) -> tuple[str, str | None, str]:
    """`split_at`, where space before a marker belongs to it and is held until that is decided."""
    before, marker, rest = split_at(text, markers)
    content = before.rstrip()
    return content, marker, rest if marker else before[len(content) :] + rest


def begun(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a marker; 0 if none does."""
    return max(
        (
            size
            for marker in markers
            for size in range(1, min(len(marker), len(text) + 1))
            if text.endswith(marker[:size])
        ),
        default=0,
    )
