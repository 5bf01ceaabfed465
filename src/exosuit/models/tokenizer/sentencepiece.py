"""SentencePiece BPE as GGUF stores it: no merge list, the best-scored neighbour pair joins first.

Characters start as symbols; the adjacent pair whose joined text is the best-scored token (leftmost
of equals) is joined, until no pair is a token. A heap of candidates makes that O(n log n), and text
is cut before spaces first wherever the vocabulary proves that no token reaches across, so words
are remembered. What is no token falls back to its bytes. Sources: Kudo & Richardson 2018
(SentencePiece), its `bpe_model.cc` for which token types may be joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Any

from exosuit.errors import CorruptFile
from exosuit.models.tokenizer.vocabulary import TokenType, Vocabulary, byte_tokens, flag

_SPACE = "▁"  # U+2581 stands for a space inside tokens
_REMEMBERED_WORDS = 1 << 16
_LONGEST_REMEMBERED = 64  # characters; a stranger's words may be megabytes long


class SentencePiece:
    """The `llama` family of tokenizers. Encoding is safe from any thread."""

    default_add_bos = True

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        if vocabulary.scores is None:
            raise CorruptFile(
                "the file's SentencePiece vocabulary has no scores",
                cause="tokenizer.ggml.scores is missing; merges cannot be ordered without it",
                next="convert the model again with a current converter",
            )
        self._vocabulary = vocabulary
        self.add_space_prefix = flag(metadata, "add_space_prefix", True)
        # Control and byte tokens are no text: joining characters must never produce one.
        self._joinable = vocabulary.texts_except(
            TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE
        )
        self._cost: list[float] = (-vocabulary.scores).tolist()
        self._byte_ids = byte_tokens(vocabulary)
        inside = re.search(f"[^{_SPACE}\0]{_SPACE}", "\0".join(self._joinable))
        self._words = None if inside else re.compile(f"{_SPACE}*[^{_SPACE}]+|{_SPACE}+")
        self._remembered: dict[str, list[int]] = {}

    def encode(self, text: str, at_start: bool) -> list[int]:
        """Ids of ordinary text; `at_start` says that no text precedes it (or a special token)."""
        if self.add_space_prefix and at_start:
            text = " " + text
        text = text.replace(" ", _SPACE)
        if self._words is None:
            return self._join(text)
        ids: list[int] = []
        remembered = self._remembered
        for word in self._words.findall(text):
            known = remembered.get(word)
            if known is None:
                known = self._join(word)
                if len(remembered) >= _REMEMBERED_WORDS:
                    self._remembered = remembered = {}
                if len(word) <= _LONGEST_REMEMBERED:
                    remembered[word] = known
            ids += known
        return ids

    def piece(self, id: int) -> bytes:
        text = self._vocabulary.tokens[id]
        if self._vocabulary.types[id] == TokenType.BYTE:
            return bytes([int(text[3:5], 16)])
        return text.replace(_SPACE, " ").encode()

    def _join(self, text: str) -> list[int]:
        """Joins the symbols of `text`; a stale heap entry no longer names what stands there."""
        symbols: list[str] = list(text)
        end = len(symbols)
        before = list(range(-1, end - 1))
        after = list(range(1, end + 1))
        heap: list[tuple[float, int, str]] = []

        def propose(left: int) -> None:
            joined = symbols[left] + symbols[after[left]]
            id = self._joinable.get(joined)
            if id is not None:
                heappush(heap, (self._cost[id], left, joined))

        for left in range(end - 1):
            propose(left)
        while heap:
            _, left, joined = heappop(heap)
            right = after[left]
            if right >= end or not symbols[left] or symbols[left] + symbols[right] != joined:
                continue
            symbols[left], symbols[right] = joined, ""
            after[left] = following = after[right]
            if following < end:
                before[following] = left
                propose(left)
            if before[left] >= 0:
                propose(before[left])
        ids: list[int] = []
        for symbol in filter(None, symbols):
            id = self._joinable.get(symbol)
            ids += self._bytes_of(symbol) if id is None else [id]
        return ids

    def _bytes_of(self, character: str) -> list[int]:
        """Byte tokens of a character that is no token; the unknown token where there are none."""
        wanted = character.encode()
        if all(byte in self._byte_ids for byte in wanted):
            return [self._byte_ids[byte] for byte in wanted]
        unknown = self._vocabulary.roles.get("unknown")
        return [] if unknown is None else [unknown]
