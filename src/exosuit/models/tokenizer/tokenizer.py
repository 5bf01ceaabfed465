"""The tokenizer of one model: text to ids and back, whatever its family.

Control tokens are matched only where the caller says so (`parse_special`, or `Segment.special` from
a chat template), so no text of a user can end a turn or open another role.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.models.tokenizer.bytelevel import ByteLevelBpe
from exosuit.models.tokenizer.gemmabpe import GemmaBpe
from exosuit.models.tokenizer.sentencepiece import SentencePiece
from exosuit.models.tokenizer.special import SpecialTokens
from exosuit.models.tokenizer.stream import StreamDecoder
from exosuit.models.tokenizer.vocabulary import TokenType, Vocabulary, flag
from exosuit.models.tokenizer.wordpiece import WordPiece


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered prompt: ordinary text, or exactly one control token's text."""

    text: str
    special: bool = False


class TextModel(Protocol):
    """What a family does: ordinary text to ids, one id to its bytes."""

    default_add_bos: bool
    add_space_prefix: bool

    def encode(self, text: str, at_start: bool) -> list[int]: ...
    def piece(self, id: int) -> bytes: ...


_FAMILIES: dict[
    str, type[ByteLevelBpe] | type[GemmaBpe] | type[SentencePiece] | type[WordPiece]
] = {
    "gpt2": ByteLevelBpe,
    "gemma4": GemmaBpe,
    "llama": SentencePiece,
    "bert": WordPiece,
}


class Tokenizer:
    """Immutable after construction; any thread may use it."""

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        family = metadata.get("tokenizer.ggml.model")
        if family not in _FAMILIES:
            raise UnsupportedModel(
                f"the model's tokenizer is of the kind {family!r}",
                cause=f"exosuit reads the kinds {', '.join(sorted(_FAMILIES))}",
                next="choose another model; see  exosuit models",
                tokenizer=family,
            )
        self.vocabulary = vocabulary
        self._model: TextModel = _FAMILIES[family](vocabulary, metadata)
        self.add_bos = flag(metadata, "add_bos_token", self._model.default_add_bos)
        self.add_eos = flag(metadata, "add_eos_token", False)
        self.add_separator = flag(metadata, "add_sep_token", family == "bert")
        for wanted, role in ((self.add_bos, "bos"), (self.add_eos, "eos")):
            if wanted and role not in vocabulary.roles:
                raise CorruptFile(
                    f"the model wants its {role} token added, and names none",
                    cause=f"tokenizer.ggml.{role}_token_id is missing or past the vocabulary",
                    next="fetch the file again with  exosuit pull  or convert it again",
                )
        self._hidden = frozenset(vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN))
        always = [(vocabulary.tokens[i], i) for i in vocabulary.of_type(TokenType.USER_DEFINED)]
        hidden = [(vocabulary.tokens[i], i) for i in sorted(self._hidden)]
        self._user_defined = SpecialTokens(always)
        self._all_special = SpecialTokens(always + hidden)
        self._strips_after = _tokens_that_strip(vocabulary, metadata)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Builds the tokenizer from GGUF keys and values.

        `tokenizer.ggml.tokens` and `.merges` are lists of str, `.scores` and `.token_type` lists or
        arrays. Raises CorruptFile, or UnsupportedModel for a family or pre-tokenizer not known.
        """
        return cls(Vocabulary.from_metadata(metadata), metadata)

    # ---- roles

    @property
    def bos(self) -> int | None:
        return self.vocabulary.roles.get("bos")

    @property
    def eos(self) -> int | None:
        return self.vocabulary.roles.get("eos")

    @property
    def eot(self) -> int | None:
        return self.vocabulary.roles.get("eot")

    @property
    def special(self) -> Mapping[str, int]:
        """Role to id, for every role the model has: bos, eos, eot, eom, padding, fim_prefix, ..."""
        return self.vocabulary.roles

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation."""
        return self.vocabulary.end_tokens

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabulary)

    @property
    def control_texts(self) -> frozenset[str]:
        """Texts of the tokens that only a template may write."""
        return frozenset(self.vocabulary.tokens[i] for i in self._hidden)

    # ---- text to ids

    def encode(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = False,
        continues: bool = False,
    ) -> list[int]:
        """Ids of `text`; with `add_special` also bos, eos, separator as the model wants them.

        continues: the text goes on from earlier text, so SentencePiece puts no space before it
        Lone surrogates, which no UTF-8 text can hold, are read as U+FFFD.
        """
        matcher = self._all_special if parse_special else self._user_defined
        ids = self._encode_parts(matcher.split(_well_formed(text)), at_start=not continues)
        return self._with_special(ids) if add_special else ids

    def encode_chat(self, segments: Iterable[Segment]) -> list[int]:
        """Ids of a rendered template; bos comes first if the model wants it, and only once.

        Ordinary segments are cut as one text where they touch, so the ids are those of the whole
        prompt; only `special` segments become control tokens.
        """
        parts: list[str | int] = []
        for segment in segments:
            if segment.special:
                parts.append(self.vocabulary.ids[segment.text])
            elif parts and isinstance(parts[-1], str):
                parts[-1] += segment.text
            else:
                parts.append(segment.text)
        ids = self._encode_parts(
            piece
            for part in parts
            for piece in (
                self._user_defined.split(_well_formed(part)) if isinstance(part, str) else [part]
            )
        )
        if self.add_bos and self.bos is not None and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def _encode_parts(self, parts: Iterable[str | int], at_start: bool = True) -> list[int]:
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                at_start = True
                continue
            if ids and ids[-1] in self._strips_after:
                part = part.lstrip(" \t\n\r\f\v")
            if part:
                ids += self._model.encode(part, at_start)
                at_start = False
        return ids

    def _with_special(self, ids: list[int]) -> list[int]:
        roles = self.vocabulary.roles
        before = [roles["bos"]] if self.add_bos else []
        after = [roles["eos"]] if self.add_eos else []
        if self.add_separator and "separator" in roles:
            after.append(roles["separator"])
        return before + ids + after

    # ---- ids to text

    def decode(self, ids: Iterable[int], special: bool = False, continues: bool = False) -> str:
        """Text of `ids`; broken UTF-8 becomes U+FFFD.

        special:   control tokens are written out instead of skipped
        continues: the ids go on from earlier text, so the space that SentencePiece puts before a
                   text's first word is kept
        """
        stream = self.stream(special, continues)
        return "".join([*map(stream.feed, ids), stream.flush()])

    def stream(self, special: bool = False, continues: bool = False) -> StreamDecoder:
        """A decoder for ids as they come; see `decode` for the arguments."""
        strip = self._model.add_space_prefix and not continues
        return StreamDecoder(lambda id: self.piece(id, special), strip)

    def piece(self, id: int, special: bool = False) -> bytes:
        """The bytes of one token, perhaps a part of a character; control tokens have none unless
        `special`. Raises IndexError for an id outside the vocabulary.
        """
        if not 0 <= id < len(self.vocabulary):
            raise IndexError(f"token {id} is not one of {len(self.vocabulary)}")
        return b"" if id in self._hidden and not special else self._model.piece(id)

    def text_of(self, id: int) -> str:
        """The token as the vocabulary spells it, escapes included: for listings and logs."""
        return self.vocabulary.tokens[id]


def _tokens_that_strip(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> frozenset[int]:
    """Phi-3's added tokens swallow the space after them; GGUF has no key for it, only the name.

    Source: tokenizer.json of microsoft/Phi-3 (`rstrip`), llama.cpp `src/llama-vocab.cpp`.
    """
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    added = vocabulary.of_type(TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    keeps = {"<unk>", "<s>", "<|endoftext|>"}
    return frozenset(i for i in added if vocabulary.tokens[i] not in keeps)


def _well_formed(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
