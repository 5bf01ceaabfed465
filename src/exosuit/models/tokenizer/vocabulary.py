"""The token table of a GGUF file: texts, types, scores, and which tokens have a role.

A `Vocabulary` is a value, read once and checked once; nothing here splits text. Roles that a file
leaves out are found by the token's text, because many files do; the lists are llama.cpp's, whose
behaviour users compare with. Sources: GGUF specification (keys `tokenizer.ggml.*`), llama.cpp
`src/llama-vocab.cpp` (end-of-generation texts).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from exosuit.errors import CorruptFile


class TokenType(IntEnum):
    """How a token takes part: the values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# role -> metadata keys under "tokenizer.ggml.", first found wins ("seperator" is spelt so in files)
_ROLE_KEYS = {
    "bos": ("bos_token_id", "cls_token_id"),
    "eos": ("eos_token_id",),
    "eot": ("eot_token_id",),
    "eom": ("eom_token_id",),
    "unknown": ("unknown_token_id",),
    "separator": ("seperator_token_id",),
    "padding": ("padding_token_id",),
    "mask": ("mask_token_id",),
    "fim_prefix": ("fim_pre_token_id", "prefix_token_id"),
    "fim_suffix": ("fim_suf_token_id", "suffix_token_id"),
    "fim_middle": ("fim_mid_token_id", "middle_token_id"),
    "fim_pad": ("fim_pad_token_id",),
    "fim_repository": ("fim_rep_token_id",),
    "fim_separator": ("fim_sep_token_id",),
}

# role -> texts that mean it where the file names no id, best first
_ROLE_TEXTS = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_prefix": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>", "▁<PRE>"),
    "fim_suffix": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<｜fim▁hole｜>", "▁<SUF>"),
    "fim_middle": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<｜fim▁end｜>", "▁<MID>"),
}

# tokens that end a generation wherever they occur
_END_TEXTS = (
    *_ROLE_TEXTS["eot"],
    *_ROLE_TEXTS["eom"],
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
)

# gpt-oss writes its channels with these: they are part of the answer, not hidden control
_HARMONY_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one model. Immutable by convention; shared between threads.

    tokens  [vocabulary] str, as the file spells them (byte-level or ▁ escapes included)
    types   [vocabulary] uint8, values of `TokenType`
    scores  [vocabulary] float32, or None where the file has none
    ids     text to id, all tokens
    roles   bos, eos, eot, ... to id; a role the model lacks is absent
    """

    tokens: list[str]
    types: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    ids: dict[str, int]
    roles: dict[str, int]
    end_tokens: frozenset[int]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Vocabulary:
        """Reads `tokenizer.ggml.*`. Raises CorruptFile for a table that contradicts itself."""
        found = metadata.get("tokenizer.ggml.tokens")
        if not isinstance(found, list) or not found:
            raise _corrupt("the file has no token list (tokenizer.ggml.tokens)")
        tokens = [t or f"[EMPTY_{i}]" for i, t in enumerate(texts(cast("list[Any]", found)))]
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
        if len(ids) != len(tokens):
            twice = next(t for i, t in enumerate(tokens) if ids[t] != i)
            raise _corrupt(f"the token {twice!r} is in the vocabulary twice")
        types = _column(metadata, "token_type", len(tokens), np.dtype(np.int64))
        if types is None:
            types = np.full(len(tokens), TokenType.NORMAL)
        if types.min() < 0 or types.max() > TokenType.BYTE:
            raise _corrupt("a token has a type outside 0 to 6 (tokenizer.ggml.token_type)")
        kinds = types.astype(np.uint8)
        scores = _column(metadata, "scores", len(tokens), np.dtype(np.float32))
        if scores is not None and np.isnan(scores).any():
            raise _corrupt("a token's score is not a number (tokenizer.ggml.scores)")
        roles = _roles(metadata, ids, kinds)
        ends = _end_tokens(ids, roles, kinds)
        return cls(tokens, kinds, scores, ids, roles, ends)

    def __len__(self) -> int:
        return len(self.tokens)

    def of_type(self, *types: TokenType) -> list[int]:
        """Ids of the tokens that have one of these types, ascending."""
        return np.flatnonzero(np.isin(self.types, types)).tolist()

    def texts_except(self, *types: TokenType) -> dict[str, int]:
        """Text to id of the tokens that have none of these types."""
        kept = dict(self.ids)
        for id in self.of_type(*types):
            del kept[self.tokens[id]]
        return kept


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """A boolean of `tokenizer.ggml`, or the default of the tokenizer family."""
    return bool(metadata.get(f"tokenizer.ggml.{name}", default))


def byte_tokens(vocabulary: Vocabulary) -> dict[int, int]:
    """Byte value to id of the tokens of type BYTE, which are spelt `<0x00>` to `<0xFF>`."""
    found: dict[int, int] = {}
    for id in vocabulary.of_type(TokenType.BYTE):
        spelt = re.fullmatch("<0x([0-9A-Fa-f]{2})>", vocabulary.tokens[id])
        if spelt is None:
            raise _corrupt(
                f"the byte token {vocabulary.tokens[id]!r} is not spelt <0x00> to <0xFF>"
            )
        found[int(spelt[1], 16)] = id
    return found


def _roles(
    metadata: Mapping[str, Any], ids: dict[str, int], types: NDArray[np.uint8]
) -> dict[str, int]:
    roles: dict[str, int] = {}
    for role, keys in _ROLE_KEYS.items():
        for key in keys:
            id = metadata.get(f"tokenizer.ggml.{key}")
            # Converters write ids past the table, or -1, for "none": such a role is absent.
            if id is not None and 0 <= int(id) < len(ids):
                roles[role] = int(id)
                break
    for role, texts in _ROLE_TEXTS.items():
        id = next((ids[t] for t in texts if t in ids), None)
        if role not in roles and id is not None:
            roles[role] = id
            types[id] = TokenType.CONTROL
    return roles


def _end_tokens(
    ids: dict[str, int], roles: dict[str, int], types: NDArray[np.uint8]
) -> frozenset[int]:
    """Tokens after which the model has nothing more to say; retypes the control-looking ones."""
    ends = {ids[t] for t in _END_TEXTS if t in ids}
    for id in ends:
        types[id] = TokenType.CONTROL
    # llama.cpp always ends at "</s>"; in Qwen and Gemma that is HTML, so the file's type decides.
    if "</s>" in ids and types[ids["</s>"]] == TokenType.CONTROL:
        ends.add(ids["</s>"])
    named = ("eos", "eot", "eom", "fim_pad", "fim_repository", "fim_separator")
    ends |= {roles[r] for r in named if r in roles}
    for text in _HARMONY_TEXTS:
        if text in ids:
            types[ids[text]] = TokenType.USER_DEFINED
    # In harmony dialects <|end|> ends a message, not the turn.
    harmony = {"<|return|>", "<|call|>"} <= ids.keys() or {"<|calls|>", "<|flush|>"} <= ids.keys()
    if harmony and "<|end|>" in ids:
        ends.discard(ids["<|end|>"])
        types[ids["<|end|>"]] = TokenType.USER_DEFINED
    return frozenset(ends)


def texts(found: list[Any]) -> list[str]:
    """The list itself, once it is certain that it holds nothing but text."""
    if not all(isinstance(t, str) for t in found):
        raise _corrupt("the vocabulary or merge list holds something that is not text")
    return found


def _column(
    metadata: Mapping[str, Any], name: str, count: int, dtype: np.dtype[Any]
) -> NDArray[Any] | None:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if found is None:
        return None
    try:
        column = np.asarray(found, dtype)
    except (TypeError, ValueError, OverflowError) as problem:
        raise _corrupt(f"tokenizer.ggml.{name} is not a list of numbers") from problem
    if column.ndim != 1 or len(column) < count:
        raise _corrupt(f"tokenizer.ggml.{name} has {column.size} entries for {count} tokens")
    return column[:count]


def _corrupt(what: str) -> CorruptFile:
    return CorruptFile(
        what,
        cause="the file is damaged, or was written by a faulty converter",
        next="fetch it again with  exosuit pull  or convert it again with a current converter",
    )
