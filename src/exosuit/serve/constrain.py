"""Answers of a given form: JSON schemas, regular expressions and grammars as masks of tokens.

llguidance does the work (it computes which tokens may follow in tens of microseconds); here a
model's vocabulary is told to it, and a client's wish becomes its grammar. A model that thinks may
do so before the form begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import llguidance
import numpy as np
from numpy.typing import NDArray

from exosuit.errors import RequestError
from exosuit.models.tokenizer import Tokenizer, TokenType
from exosuit.serve.reasoning import Marks

# One way to write JSON, and the one that models have seen most: a small model that may choose its
# white space may write nothing else for ever.
_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
LONGEST_FORM = 256 << 10

Grammars = Mapping[str, Mapping[str, Any]]
"""Name to {"lark_grammar": text} or {"json_schema": schema}; the first is where it begins."""


@dataclass(frozen=True)
class Form:
    """What an answer must look like.

    kind  "schema": `text` is a JSON schema; "regex"; "gbnf" (llama.cpp's grammars); "lark"
    """

    kind: Literal["schema", "regex", "gbnf", "lark"]
    text: str


ANY_OBJECT = Form("schema", '{"type": "object"}')


def grammars_of(form: Form) -> Grammars:
    """The form as a grammar; RequestError if it cannot be read."""
    if len(form.text) > LONGEST_FORM:
        raise _bad(f"it has {len(form.text)} characters; {LONGEST_FORM} are allowed")
    try:
        match form.kind:
            case "schema":
                return {"form": {"json_schema": json.loads(form.text)}}
            case "regex":
                return {"form": {"lark_grammar": f"start: /{_in_slashes(form.text)}/"}}
            case "gbnf":
                return {"form": {"lark_grammar": llguidance.grammar_from("gbnf", form.text)}}
            case "lark":
                return {"form": {"lark_grammar": form.text}}
    except RecursionError:
        raise _bad("it nests too deeply") from None
    except Exception as problem:  # the GBNF reader raises plain exceptions of several kinds
        raise _bad(str(problem)) from problem


class GrammarConstraint:
    """One answer held to a grammar: an `engine.batch.Constraint`. Used by one thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._words = words

    def mask(self) -> NDArray[np.uint32]:
        """`ceil(vocabulary / 32)` words; end tokens are among them once the form is complete."""
        # llguidance adds a word where the vocabulary fills the last one exactly.
        return np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: self._words]

    def accept(self, token: int) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    @property
    def is_done(self) -> bool:
        return self._matcher.is_stopped()

    @property
    def problem(self) -> str:
        """Why the grammar gave up (too complex to go on); "" while all is well."""
        return _said(self._matcher) if self._matcher.is_error() else ""


class Constraints:
    """Makes constraints for one model; any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocabulary = _Vocabulary(tokenizer)
        self._words = -(-tokenizer.vocabulary_size // 32)
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(self._vocabulary), eos_token=sorted(tokenizer.end_tokens)
        )

    def spell(self, marker: str) -> str:
        """How a grammar writes the marker: as one control token where the model has it as one."""
        id = self._vocabulary.control.get(marker)
        return json.dumps(marker) if id is None else f"<[{id}]>"

    def make(
        self, grammars: Grammars, marks: Marks | None = None, inside: bool = False
    ) -> GrammarConstraint:
        """Raises RequestError for what llguidance cannot follow.

        marks   the model may think first, between these; `inside`: it has begun to
        """
        names = list(grammars)
        entries = [{"name": name, **_with_options(grammars[name])} for name in names]
        if marks is not None:
            entries.insert(0, {"name": "answer", "lark_grammar": self._think(marks, inside, names)})
        text = json.dumps({"grammars": entries})
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0)
        # The first mask may take a second, and show that the rest would: not in the engine's time.
        matcher.compute_bitmask()
        if matcher.is_error():
            raise _bad(_said(matcher))
        return GrammarConstraint(matcher, self._words)

    def _think(self, marks: Marks, inside: bool, names: list[str]) -> str:
        before = "" if inside else f"{self.spell(marks.before)} "
        after = self.spell(marks.after)
        thoughts = f"thoughts: {before}body /\\s*/\nbody[suffix={after}]: /(.|\\n)*/"
        return f"start: thoughts{'' if inside else '?'} @{names[0]}\n{thoughts}"


class _Vocabulary:
    """A tokenizer as llguidance asks for it (see its `TokenizerWrapper`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        hidden = tokenizer.vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN)
        self.control = {tokenizer.text_of(id): id for id in hidden}
        self.special_token_ids = hidden
        self.tokens = [tokenizer.piece(id, special=True) for id in range(tokenizer.vocabulary_size)]
        self.bos_token_id = tokenizer.bos
        self.eos_token_id = min(tokenizer.end_tokens, default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        plain = text if isinstance(text, str) else text.decode()
        return self._tokenizer.encode(plain, add_special=False, continues=True)


_MADE: WeakKeyDictionary[Tokenizer, Constraints] = WeakKeyDictionary()
_MAKING = Lock()


def constraints_for(tokenizer: Tokenizer) -> Constraints:
    """The tokenizer's `Constraints`, made at the first call (a tenth of a second and more)."""
    with _MAKING:
        if tokenizer not in _MADE:
            _MADE[tokenizer] = Constraints(tokenizer)
        return _MADE[tokenizer]


def _said(matcher: llguidance.LLMatcher) -> str:
    """What is wrong, without the state, which quotes the answer."""
    return matcher.get_error().split("<state>")[0].strip()


def _with_options(grammar: Mapping[str, Any]) -> dict[str, Any]:
    """How JSON is written, in a schema; a schema of `true` or `false` has no room for it."""
    schema = grammar.get("json_schema")
    if not isinstance(schema, dict):
        return dict(grammar)
    return {"json_schema": cast("dict[str, Any]", schema) | {"x-guidance": _WRITTEN}}


def _in_slashes(regex: str) -> str:
    """The expression as Lark writes it: slashes that are not escaped yet get a backslash."""
    out, escaped = "", False
    for character in regex:
        out += "\\/" if character == "/" and not escaped else character
        escaped = character == "\\" and not escaped
    return out.replace("\n", "\\n")


def _bad(why: str) -> RequestError:
    return RequestError(
        f"the answer's form (schema, regular expression or grammar) cannot be used: {why[:500]}",
        cause="it is not valid, or needs something that llguidance does not know",
        next="simplify the schema or grammar and send the request again",
    )
