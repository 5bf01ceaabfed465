"""Tool calls as Hermes and Qwen 2.5 and 3 write them: JSON between `<tool_call>` marks.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Sources: the chat templates of NousResearch/Hermes-2-Pro and Qwen/Qwen2.5. It is also the style in
which models are asked whose template knows no tools (see `models.chat.tools`).
"""

from __future__ import annotations

from collections.abc import Iterator

from exosuit.serve.markers import split_content
from exosuit.serve.tools.definitions import CallDelta
from exosuit.serve.tools.reading import CallReader

BEFORE, AFTER = "<tool_call>", "</tool_call>"


class HermesParser:
    """Reads one answer; see `tools.reading.Parser`."""

    def __init__(self) -> None:
        self._held = ""
        self._call: CallReader | None = None
        self._count = 0

    def feed(self, text: str) -> Iterator[str | CallDelta]:
        self._held += text
        while True:
            if self._call is None:
                content, mark, self._held = split_content(self._held, (BEFORE, AFTER))
                if content:
                    yield content
                if mark is None:
                    return
                if mark == BEFORE:
                    self._call = CallReader(self._count)
                continue
            fed, self._held = self._held, ""
            if not fed:
                return
            yield from self._call.feed(fed)
            if not self._call.is_done:
                return
            yield from self._end()

    def flush(self) -> Iterator[str | CallDelta]:
        if self._call is not None:
            self._call.flush()
            yield from self._end()
        held, self._held = self._held, ""
        if held and (held.strip() or not self._count):
            yield held

    def _end(self) -> Iterator[str | CallDelta]:
        """The call's text is over: the next one begins, or it was no call and is content."""
        assert self._call is not None
        self._held = (self._call.rest or "") + self._held
        if self._call.failed:
            yield BEFORE + self._call.failed
        elif self._call.failed is None:
            self._count += 1
        self._call = None
