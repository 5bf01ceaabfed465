"""Stop strings: found wherever the borders fall, and nothing of them is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exosuit.engine.stops import StopStrings


def feed(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    watch = StopStrings(stops)
    shown = [watch.feed(piece) for piece in pieces]
    return [*shown, watch.flush()], watch.found


def test_text_without_stop_strings_is_shown_at_once():
    assert feed([], ["a", "bc"]) == (["a", "bc", ""], None)
    assert feed(["xyz"], ["a", "bc"]) == (["a", "bc", ""], None)


def test_only_what_may_begin_a_stop_string_is_held_back():
    assert feed(["END"], ["a E", "N", "d"]) == (["a ", "", "ENd", ""], None)
    assert feed(["END"], ["a E", "N"]) == (["a ", "", "EN"], None)


def test_a_stop_string_over_many_pieces():
    assert feed(["\nUser:"], ["Hi.\n", "Us", "er", ": what"]) == (
        ["Hi.", "", "", "", ""],
        "\nUser:",
    )


def test_nothing_follows_a_stop_string():
    watch = StopStrings(["."])
    assert [watch.feed("a.b"), watch.feed("c."), watch.flush()] == ["a", "", ""]


@pytest.mark.parametrize(
    ("stops", "shown", "found"),
    [(["bcd", "c"], "ab", "c"), (["c", "bc"], "a", "bc"), (["d", "abcx"], "abc", "d")],
)
def test_the_first_to_be_complete_wins(stops, shown, found):
    told, which = feed(stops, list("abcde"))
    assert ("".join(told), which) == (shown, found)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc", max_size=5), max_size=12),
)
def test_borders_make_no_difference(stops, pieces):
    text = "".join(pieces)
    ends = [(text.find(s) + len(s), text.find(s), s) for s in stops if s in text]
    expected = text[: min(ends)[1]] if ends else text
    shown, found = feed(stops, pieces)
    assert "".join(shown) == expected
    assert found == (min(ends)[2] if ends else None)
    if not ends:
        held = len(text) - len("".join(shown[:-1]))
        assert held < max(map(len, stops), default=1)
