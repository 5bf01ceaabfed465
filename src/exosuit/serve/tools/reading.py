"""What the styles of tool calls share: a parser's outside, and one call read from a JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol, cast

from exosuit.serve.tools.definitions import CallDelta
from exosuit.serve.tools.scanner import Member, ObjectScanner

_ARGUMENTS = ("arguments", "parameters")
_KNOWN = ("name", "id", "type", "function", *_ARGUMENTS)


class Parser(Protocol):
    """Reads one answer as it comes: text is content, a `CallDelta` is news of a call."""

    def feed(self, text: str) -> Iterator[str | CallDelta]: ...

    def flush(self) -> Iterator[str | CallDelta]:
        """What is left when nothing follows."""
        ...


class CallReader:
    """Reads `{"name": ..., "arguments": {...}}`; arguments are passed on while they are written.

    If the object turns out to be no call, `failed` holds its text so far, unless something was told
    of it already. `rest` is the text that follows.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._scanner = ObjectScanner()
        self._raw = ""
        self._name: str | None = None
        self._id: str | None = None
        self._values: dict[str, str] = {}
        self._told = False
        self._kept = ""  # arguments that came before the name
        self._has_arguments = False
        self.rest: str | None = None
        self.failed: str | None = None

    @property
    def is_done(self) -> bool:
        """The object has ended, or failed."""
        return self.rest is not None

    def feed(self, text: str) -> Iterator[CallDelta]:
        self._raw += text
        for part in self._scanner.feed(text):
            if isinstance(part, str):
                self.rest = part
                if self._scanner.is_broken:
                    self._fail()
                else:
                    yield from self._finish()
            elif part.key not in _KNOWN and not self._told:
                self._scanner.give_up()
            else:
                yield from self._member(part)

    def flush(self) -> None:
        """Nothing follows; a call that was begun stays as it is."""
        if not self.is_done:
            self.rest = ""
            self._fail()

    def _fail(self) -> None:
        text = self._raw[: len(self._raw) - len(self.rest or "")]
        self.failed = "" if self._told else text

    def _member(self, part: Member) -> Iterator[CallDelta]:
        so_far = self._values.get(part.key, "") + part.text
        self._values[part.key] = so_far
        if part.key == "name" and part.ended:
            self._name = _text(so_far)
        elif part.key == "id" and part.ended:
            self._id = _text(so_far)
        elif part.key in _ARGUMENTS:
            is_text = so_far.startswith('"')  # some models write the arguments as text
            if not is_text:
                self._kept += part.text
            elif part.ended:
                self._kept += _text(so_far) or "{}"
            self._has_arguments = True
        if self._name is not None and (self._kept or self._told):
            yield from self._tell()

    def _tell(self) -> Iterator[CallDelta]:
        kept, self._kept = self._kept, ""
        if not self._told:
            self._told = True
            yield CallDelta(self._position, self._name, kept, self._id)
        elif kept:
            yield CallDelta(self._position, None, kept)

    def _finish(self) -> Iterator[CallDelta]:
        if self._name is None and not self._told:
            self._unwrap()
        if self._name is None:
            self._fail()
            return
        if not self._has_arguments:
            self._kept = "{}"
        if self._kept or not self._told:
            yield from self._tell()

    def _unwrap(self) -> None:
        """`{"type": "function", "function": {...}}`, as a request would spell it."""
        try:
            found = json.loads(self._values.get("function", "null"))
        except ValueError:
            return
        if not isinstance(found, dict):
            return
        function = cast("dict[str, object]", found)
        name = function.get("name")
        if isinstance(name, str):
            self._name, self._has_arguments = name, True
            given = function.get("arguments", function.get("parameters", {}))
            self._kept = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _text(value: str) -> str | None:
    """The string that a JSON value spells; None if it is none."""
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, str) else None
