"""Text from ids that arrive one by one, released only where characters are complete."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes one sequence; owned by one thread. Made by `Tokenizer.stream`.

    The texts of all `feed` calls and of `flush`, joined, are what `Tokenizer.decode` gives for the
    same ids. Bytes that cannot be UTF-8 become U+FFFD, an unfinished character only at `flush`.
    """

    def __init__(self, piece: Callable[[int], bytes], strip_first_space: bool = False) -> None:
        self._piece = piece
        self._strip = strip_first_space
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id: int) -> str:
        """The text that became complete with this token; often a word, sometimes nothing."""
        piece = self._piece(id)
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._bytes.decode(piece)

    def flush(self) -> str:
        """What is left when no token follows: nothing, or a mark for a broken character."""
        return self._bytes.decode(b"", final=True)
