"""Reads one JSON object as it is written, member by member, without waiting for its end.

It decides where values begin and end, not whether they are valid: what a model writes is passed on
as it stands, and the client's parser has the last word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Member:
    """More of the value of a key; `text` is JSON as written, `ended` with its last piece."""

    key: str
    text: str
    ended: bool


class ValueScanner:
    """Finds the end of one JSON value that is an object, list or string."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def ends(self, character: str) -> bool:
        """Whether the value ends with this character."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
                return self._depth == 0
            return False
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return self._depth <= 0
        return False


class ObjectScanner:
    """Walks one object; `is_broken` once the text cannot be one.

    A key is told when its colon comes, with a value of no text yet.
    """

    def __init__(self) -> None:
        self._state = "start"
        self._key = ""
        self._value = ValueScanner()
        self._is_bare = False  # the value is a number, true, false or null
        self._is_fresh = True  # nothing of the value was seen yet
        self._piece = ""

    @property
    def is_done(self) -> bool:
        return self._state == "done"

    @property
    def is_broken(self) -> bool:
        return self._state == "broken"

    def feed(self, text: str) -> Iterator[Member | str]:
        """Members as they come; last, if the object ended or broke, the text that follows."""
        for position, character in enumerate(text):
            if self._state == "value":
                yield from self._in_value(character)
            elif self._state == "key":
                self._in_key(character)
            elif character not in _SPACE:
                self._between(character)
                if self._state == "value":
                    yield Member(self._key, "", False)
            if self._state in ("done", "broken"):
                yield text[position + 1 :]
                return
        if self._state == "value" and self._piece:
            yield Member(self._key, self._piece, False)
            self._piece = ""

    def give_up(self) -> None:
        """The text turns out not to be what it should be."""
        self._state = "broken"

    def _between(self, character: str) -> None:
        match self._state, character:
            case "start", "{":
                self._state = "member"
            case "member", '"':
                self._state, self._key, self._value = "key", '"', ValueScanner()
                self._value.ends('"')
            case "member" | "more", "}":
                self._state = "done"
            case "more", ",":
                self._state = "member"
            case "colon", ":":
                self._state, self._value, self._is_fresh = "value", ValueScanner(), True
            case _:
                self._state = "broken"

    def _in_key(self, character: str) -> None:
        self._key += character
        if self._value.ends(character):
            try:
                self._key = json.loads(self._key)
                self._state = "colon"
            except ValueError:
                self._state = "broken"

    def _in_value(self, character: str) -> Iterator[Member]:
        if self._is_fresh:
            if character in _SPACE:
                return
            self._is_fresh = False
            self._is_bare = character not in '{["'
        if self._is_bare:  # it ends where something else begins
            if character in ",}":
                self._state = "more"
                yield self._ended()
                self._between(character)
                return
            self._piece += character
            return
        self._piece += character
        if self._value.ends(character):
            self._state = "more"
            yield self._ended()

    def _ended(self) -> Member:
        piece, self._piece = self._piece, ""
        return Member(self._key, piece.rstrip() if self._is_bare else piece, True)
