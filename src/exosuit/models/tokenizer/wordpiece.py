"""WordPiece, the BERT family: normalised words, each split into the longest known pieces.

GGUF spells a word's first piece with a leading ▁ and the others bare; the `tokenizers` library
spells the first bare and the others with ##. This module translates and lets the library work.
Source: Devlin et al. 2018, and the library's BERT normalizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exosuit.errors import CorruptFile
from exosuit.models.tokenizer.vocabulary import TokenType, Vocabulary, flag

_START = "▁"


class WordPiece:
    """One `bert` tokenizer. What it drops (case, accents, spaces) does not come back."""

    default_add_bos = True
    add_space_prefix = True  # decoding starts with a space that was never in the text

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        import tokenizers  # 35 ms that commands without a model need not pay

        unknown = vocabulary.roles.get("unknown")
        if unknown is None:
            raise CorruptFile(
                "the file's WordPiece vocabulary has no unknown token",
                cause="tokenizer.ggml.unknown_token_id is missing",
                next="convert the model again with a current converter",
            )
        self._vocabulary = vocabulary
        pieces = {
            text[1:] if text.startswith(_START) and text != _START else f"##{text}": id
            for text, id in vocabulary.texts_except(TokenType.CONTROL, TokenType.UNKNOWN).items()
        }
        name = vocabulary.tokens[unknown]
        pieces[name] = unknown
        lowercase = flag(metadata, "normalizer.lowercase", True)
        library = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token=name))
        library.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=lowercase, strip_accents=flag(metadata, "normalizer.strip_accents", lowercase)
        )
        library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        self._library = library

    def encode(self, text: str, at_start: bool) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def piece(self, id: int) -> bytes:
        return self._vocabulary.tokens[id].replace(_START, " ").encode()
