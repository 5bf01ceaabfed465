"""Tool calls as Mistral's models write them, after the control token `[TOOL_CALLS]`.

    [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "a1b2c3d4e"}]
    [TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]time[ARGS]{}

The first is older (tokenizer v3), the second newer (v11), sometimes with `[CALL_ID]` and an id
before the arguments. Source: mistral-common, `tokens/tokenizers/instruct.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.serve.markers import split_content
from exosuit.serve.tools.definitions import CallDelta
from exosuit.serve.tools.reading import CallReader
from exosuit.serve.tools.scanner import ValueScanner

MARK, ID_MARK, ARGUMENTS_MARK = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


class MistralParser:
    """Reads one answer; see `tools.reading.Parser`."""

    def __init__(self) -> None:
        self._held = ""
        self._state = "text"
        self._call: CallReader | None = None
        self._value = ValueScanner()
        self._count = 0

    def feed(self, text: str) -> Iterator[str | CallDelta]:
        self._held += text
        before = None
        while self._held and (self._state, self._held) != before:
            before = self._state, self._held
            yield from getattr(self, f"_{self._state}")()

    def flush(self) -> Iterator[str | CallDelta]:
        if self._call is not None:
            self._call.flush()
            if self._call.failed:
                yield MARK + self._call.failed
        elif self._state == "text" and self._held and (self._held.strip() or not self._count):
            yield self._held
        elif self._state == "name" and self._held.strip():
            yield MARK + self._held
        self._held, self._call = "", None

    def _text(self) -> Iterator[str | CallDelta]:
        content, mark, self._held = split_content(self._held, (MARK,))
        if mark is not None:
            self._state = "begun"
        if content:
            yield content

    def _begun(self) -> Iterator[str | CallDelta]:
        self._held = self._held.lstrip()
        if self._held:
            self._state = "list" if self._held[0] == "[" else "name"
            self._held = self._held.removeprefix("[")
        yield from ()

    def _list(self) -> Iterator[str | CallDelta]:
        """Objects with commas between them, up to the bracket."""
        if self._call is None:
            self._held = self._held.lstrip(" \t\r\n,")
            if self._held.startswith("]"):
                self._state, self._held = "text", self._held[1:]
                return
            if not self._held:
                return
            self._call = CallReader(self._count)
        fed, self._held = self._held, ""
        yield from self._call.feed(fed)
        if not self._call.is_done:
            return
        self._held = self._call.rest or ""
        if self._call.failed is not None:
            if self._call.failed:
                yield MARK + "[" + self._call.failed
            self._state = "text"
        else:
            self._count += 1
        self._call = None

    def _name(self) -> Iterator[str | CallDelta]:
        """A name, perhaps an id, then the arguments."""
        start = self._held.find("{")
        if start < 0:
            return
        head, self._held = self._held[:start], self._held[start:]
        name, _, id = head.replace(ARGUMENTS_MARK, "").partition(ID_MARK)
        self._state, self._value = "arguments", ValueScanner()
        yield CallDelta(self._count, name.strip(), "", id.strip() or None)

    def _arguments(self) -> Iterator[str | CallDelta]:
        for position, character in enumerate(self._held):
            if self._value.ends(character):
                written, self._held = (
                    self._held[: position + 1],
                    self._held[position + 1 :].lstrip(),
                )
                self._state = "text"
                yield CallDelta(self._count, None, written)
                self._count += 1
                return
        written, self._held = self._held, ""
        yield CallDelta(self._count, None, written)
