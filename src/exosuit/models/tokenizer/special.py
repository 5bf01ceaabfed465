"""Finds tokens that are matched whole, before ordinary text is split.

Leftmost match first, longest at one place: what an Aho-Corasick matcher of the same texts finds.
A vocabulary may hold thousands of them (Gemma has 6,000), so the search jumps from one possible
first character to the next and tries only the lengths that start with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator


class SpecialTokens:
    """A fixed set of texts with their ids. Immutable; any thread."""

    def __init__(self, tokens: Iterable[tuple[str, int]]) -> None:
        self._ids = {text: id for text, id in tokens if text}
        lengths: dict[str, set[int]] = {}
        for text in self._ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        alphabet = "".join(map(re.escape, sorted(lengths)))
        self._first = re.compile(f"[{alphabet}]") if alphabet else None

    def split(self, text: str) -> Iterator[str | int]:
        """Yields stretches of ordinary text (never empty) and ids of the tokens between them."""
        start = position = 0
        while self._first and (candidate := self._first.search(text, position)):
            position = candidate.start()
            for length in self._lengths[text[position]]:
                id = self._ids.get(text[position : position + length])
                if id is not None:
                    if position > start:
                        yield text[start:position]
                    yield id
                    start = position = position + length
                    break
            else:
                position += 1
        if start < len(text):
            yield text[start:]
