"""Which page of the cache belongs to whom, and what free pages still remember.

A page holds the keys and values of 64 neighbouring positions. They depend on every token before
them, so a full page is named by a hash of the whole text up to its end, and a sequence that begins
with the same text takes the page instead of computing it: the next turn of a chat, or another
request with the same system prompt. Only full pages are shared, so nothing is ever copied. A page
that nobody uses keeps its name until it is needed for something else, the longest unused first.

A pure data structure: it knows numbers, not memory. Not safe for two threads.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from exosuit.engine.batch import PAGE_TOKENS


def page_name(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of the full page that holds `tokens`; `before` names the one before, b"" if none.

    A cryptographic hash: no prompt can be made that takes over the pages of another.
    """
    assert len(tokens) == PAGE_TOKENS
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class PagePool:
    """Pages 0 to `count` - 1 with the number of sequences that use each."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._users = [0] * count
        self._nameless = list(range(count - 1, -1, -1))  # unused; the last is taken first
        self._unused_named: OrderedDict[int, None] = OrderedDict()  # longest unused first
        self._names: dict[int, bytes] = {}
        self._by_name: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Pages that `take` could give, remembered ones included."""
        return len(self._nameless) + len(self._unused_named)

    def find(self, tokens: Sequence[int]) -> list[int]:
        """Pages of the longest known beginning of `tokens`; takes nothing.

        The page of the last token is never among them: it must be computed to know what follows.
        """
        found: list[int] = []
        name = b""
        for start in range(0, len(tokens) - PAGE_TOKENS, PAGE_TOKENS):
            name = page_name(name, tokens[start : start + PAGE_TOKENS])
            page = self._by_name.get(name)
            if page is None:
                break
            found.append(page)
        return found

    def unused(self, pages: Iterable[int]) -> int:
        """How many of `pages` nobody uses now, so that sharing them lowers `available`."""
        return sum(self._users[page] == 0 for page in pages)

    def share(self, pages: Iterable[int]) -> None:
        """One more sequence uses these named pages."""
        for page in pages:
            assert page in self._names, f"page {page} is not full"
            self._users[page] += 1
            self._unused_named.pop(page, None)

    def take(self, count: int) -> list[int]:
        """Pages for one sequence to write; at most `available`. Forgets what they held."""
        assert count <= self.available, f"{count} pages wanted, {self.available} left"
        pages: list[int] = []
        for _ in range(count):
            if self._nameless:
                page = self._nameless.pop()
            else:
                page, _ = self._unused_named.popitem(last=False)
                del self._by_name[self._names.pop(page)]
            self._users[page] = 1
            pages.append(page)
        return pages

    def name(self, page: int, name: bytes) -> None:
        """The page is full and computed. If one has the name already, that one keeps it."""
        assert self._users[page] > 0, f"page {page} is unused"
        if name not in self._by_name:
            assert page not in self._names, f"page {page} has a name"
            self._names[page] = name
            self._by_name[name] = page

    def release(self, pages: Sequence[int]) -> None:
        """A sequence leaves its pages, given in the order of its text.

        Those at its end are forgotten before those at its beginning, which more texts share.
        """
        for page in reversed(pages):
            assert self._users[page] > 0, f"page {page} is unused"
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._names:
                self._unused_named[page] = None
            else:
                self._nameless.append(page)
