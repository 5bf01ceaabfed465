"""Pages: nobody's page is given away, nothing known is wrong, nothing is lost."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exosuit.engine.batch import PAGE_TOKENS
from exosuit.engine.pages import PagePool, page_name


def fill(pool: PagePool, tokens: list[int]) -> list[int]:
    """What a sequence does: share what is known, take the rest, name the full pages."""
    pages = pool.find(tokens)
    pool.share(pages)
    pages += pool.take(-(-len(tokens) // PAGE_TOKENS) - len(pages))
    name = b""
    for index in range(len(tokens) // PAGE_TOKENS):
        name = page_name(name, tokens[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS])
        pool.name(pages[index], name)
    return pages


def test_the_next_turn_finds_the_full_pages_of_the_last():
    pool = PagePool(8)
    text = list(range(150))
    pages = fill(pool, text)
    pool.release(pages)
    assert pool.available == 8
    assert pool.find([*text, 1, 2, 3]) == pages[:2]
    assert pool.find(text[:100]) == pages[:1]
    assert pool.find([9, *text]) == []


@pytest.mark.parametrize(("tokens", "found"), [(64, 0), (65, 1), (127, 1), (128, 1), (129, 2)])
def test_the_last_token_is_always_computed(tokens, found):
    pool = PagePool(8)
    pool.release(fill(pool, list(range(200))))
    assert len(pool.find(list(range(tokens)))) == found


def test_the_same_page_after_another_beginning_is_another_page():
    pool = PagePool(8)
    pool.release(fill(pool, [1] * 64 + [2] * 64))
    assert len(pool.find([1] * 64 + [2] * 65)) == 2
    assert len(pool.find([3] * 64 + [2] * 65)) == 0
    assert pool.find([2] * 65) == []


def test_the_longest_unused_is_forgotten_first_and_ends_before_beginnings():
    pool = PagePool(4)
    old, new = [1] * 129, [2] * 65
    pool.release(fill(pool, old))  # two named pages, one nameless
    pool.release(fill(pool, new)[:])  # one named; takes the nameless ones
    pool.take(2)  # the nameless, and the end of `old`
    assert len(pool.find(old)) == 1
    assert len(pool.find(new)) == 1
    pool.take(1)
    assert len(pool.find(old)) == 0
    assert len(pool.find(new)) == 1


def test_two_who_compute_the_same_page_at_once():
    pool = PagePool(4)
    first, second = pool.take(1), pool.take(1)
    name = page_name(b"", [5] * 64)
    pool.name(first[0], name)
    pool.name(second[0], name)
    assert pool.find([5] * 65) == first
    pool.release(second)
    pool.release(first)
    assert pool.available == 4
    assert pool.find([5] * 65) == first


class Pages(RuleBasedStateMachine):
    """Sequences come and go; a model of what each page holds says what may be found."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(7)
        self.alive: list[tuple[list[int], list[int]]] = []
        self.holds: dict[int, list[int]] = {}  # page to the whole text up to its end

    @rule(kinds=st.lists(st.integers(0, 1), min_size=1, max_size=3), rest=st.integers(1, 64))
    def begin(self, kinds, rest) -> None:
        tokens = [k for kind in kinds for k in [kind] * PAGE_TOKENS][: (len(kinds) - 1) * 64 + rest]
        known = self.pool.find(tokens)
        for index, page in enumerate(known):
            assert self.holds[page] == tokens[: (index + 1) * PAGE_TOKENS]
        missing = -(-len(tokens) // PAGE_TOKENS) - len(known)
        if missing + self.pool.unused(known) > self.pool.available:
            return
        pages = fill(self.pool, tokens)
        assert pages[: len(known)] == known
        for other, _ in self.alive:
            assert not set(other) & set(pages[len(known) :]), "a page in use was given away"
        for index in range(len(known), len(pages)):
            self.holds[pages[index]] = tokens[: (index + 1) * PAGE_TOKENS]
        self.alive.append((pages, tokens))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def end(self, data) -> None:
        pages, _ = self.alive.pop(data.draw(st.integers(0, len(self.alive) - 1)))
        self.pool.release(pages)

    @invariant()
    def every_page_is_used_or_available(self) -> None:
        used = {page for pages, _ in self.alive for page in pages}
        assert len(used) + self.pool.available == self.pool.count
        assert self.pool.unused(range(self.pool.count)) == self.pool.available


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
