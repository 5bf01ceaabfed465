"""Gemma 4's BPE: merges over raw characters, spaces written as ▁, unknown characters as bytes.

It has a merge list like the GPT-2 family and the spelling of SentencePiece. Text
is cut only at runs of line ends. Source: tokenizer.json of google/gemma-4, llama.cpp
`src/llama-vocab.cpp` (`gemma4`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exosuit.models.tokenizer.bytelevel import bpe_model
from exosuit.models.tokenizer.vocabulary import TokenType, Vocabulary, byte_tokens

_SPACE = "▁"


class GemmaBpe:
    """One `gemma4` tokenizer. Encoding is safe from any thread."""

    default_add_bos = True
    add_space_prefix = False

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        import tokenizers  # 35 ms that commands without a model need not pay

        self._vocabulary = vocabulary
        byte_tokens(vocabulary)  # checks their spelling
        library = tokenizers.Tokenizer(bpe_model(vocabulary, metadata, byte_fallback=True))
        library.normalizer = tokenizers.normalizers.Replace(" ", _SPACE)
        lines = tokenizers.Regex(r"[^\n]+|[\n]+")
        library.pre_tokenizer = tokenizers.pre_tokenizers.Split(lines, "isolated")
        self._library = library

    def encode(self, text: str, at_start: bool) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def piece(self, id: int) -> bytes:
        text = self._vocabulary.tokens[id]
        if self._vocabulary.types[id] == TokenType.BYTE:
            return bytes([int(text[3:5], 16)])
        return text.replace(_SPACE, " ").encode()
