"""Byte-level BPE, the GPT-2 family: every byte is a letter, words are merged by a ranked list.

The merging is done by the `tokenizers` library; this module hands it the GGUF's vocabulary and
pattern, and maps tokens back to bytes. Sources: Radford et al. 2019 (byte-level BPE and its
256-letter alphabet), the library's BPE model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from exosuit.errors import CorruptFile
from exosuit.models.tokenizer import pretokenizers
from exosuit.models.tokenizer.vocabulary import TokenType, Vocabulary, texts


def _alphabet() -> dict[str, int]:
    """Letter to byte: printable Latin-1 stands for itself, the rest for U+0100 onwards in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(shifted)
    }


LETTERS = _alphabet()
_AS_IS = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


class ByteLevelBpe:
    """One `gpt2` tokenizer. Encoding is safe from any thread."""

    add_space_prefix = False

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        row = pretokenizers.named(metadata.get("tokenizer.ggml.pre"))
        self.default_add_bos = row.add_bos
        self._vocabulary = vocabulary
        self._as_is = frozenset(vocabulary.of_type(*_AS_IS))
        self._library = _build(vocabulary, metadata, row)

    def encode(self, text: str, at_start: bool) -> list[int]:
        """Ids of ordinary text. A byte that the vocabulary lacks is left out, as in llama.cpp."""
        return self._library.encode(text, add_special_tokens=False).ids

    def piece(self, id: int) -> bytes:
        text = self._vocabulary.tokens[id]
        if id in self._as_is or not all(letter in LETTERS for letter in text):
            return text.encode()
        return bytes(LETTERS[letter] for letter in text)


def _build(
    vocabulary: Vocabulary, metadata: Mapping[str, Any], row: pretokenizers.PreTokenizer
) -> Any:
    """The library's tokenizer for ordinary text."""
    import tokenizers  # 35 ms that commands without a model need not pay

    library = tokenizers.Tokenizer(bpe_model(vocabulary, metadata, row.ignore_merges))
    split = [
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        for pattern in row.patterns
    ]
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*split, letters])
    return library


def bpe_model(
    vocabulary: Vocabulary,
    metadata: Mapping[str, Any],
    ignore_merges: bool = False,
    byte_fallback: bool = False,
) -> Any:
    """The library's merging model, of everything but control tokens. Raises CorruptFile."""
    import tokenizers

    joinable = vocabulary.texts_except(TokenType.CONTROL, TokenType.UNKNOWN)
    control = vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN)
    merges = _merges(metadata, {vocabulary.tokens[id] for id in control})
    try:
        return tokenizers.models.BPE(
            joinable, merges, ignore_merges=ignore_merges, byte_fallback=byte_fallback
        )
    except Exception as problem:
        raise CorruptFile(
            "the file's merge list does not fit its vocabulary",
            cause=str(problem),
            next="fetch the file again with  exosuit pull  or convert the model again",
        ) from problem


def _merges(metadata: Mapping[str, Any], control: set[str]) -> list[tuple[str, str]]:
    """The ranked pairs, without those that would make a control token from ordinary text."""
    found = metadata.get("tokenizer.ggml.merges")
    if not isinstance(found, list):
        raise CorruptFile(
            "the file's BPE vocabulary has no merge list",
            cause="tokenizer.ggml.merges is missing or is not a list of texts",
            next="convert the model again with a current converter",
        )
    merges: list[tuple[str, str]] = []
    for line in texts(cast("list[Any]", found)):
        left, _, right = line.partition(" ")
        if left + right not in control:
            merges.append((left, right))
    return merges
