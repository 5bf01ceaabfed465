"""Thoughts and answers come apart, wherever the text is cut."""

from __future__ import annotations

import pytest

from exosuit.serve.reasoning import FAMILIES, USUAL, Marks, Splitter, is_open, marks_of


def split(pieces: list[str], marks: Marks = USUAL, inside: bool = False) -> tuple[str, str]:
    splitter = Splitter(marks, inside)
    parts = [splitter.feed(piece) for piece in pieces]
    parts.append(splitter.flush())
    return "".join(thoughts for thoughts, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(
    ("text", "inside", "expected"),
    [
        ("Hello.", False, ("", "Hello.")),
        ("<think>\nHm, a\n\nb.\n</think>\n\nHello.", False, ("Hm, a\n\nb.", "Hello.")),
        ("  <think>x</think> y", False, ("x", "y")),
        ("<think>\n\n</think>\n\nHello.", False, ("", "Hello.")),
        ("Hm.\n</think>\nHello.", True, ("Hm.", "Hello.")),
        ("<think>never ends \n", False, ("never ends", "")),
        ("<think>a </thin b</think>c", False, ("a </thin b", "c")),
        ("The mark <think> is text here.", False, ("", "The mark <think> is text here.")),
        ("<thing>", False, ("", "<thing>")),
        ("<thi", False, ("", "<thi")),
        ("  spaces stay", False, ("", "  spaces stay")),
        ("<think>a</think>b</think>c", False, ("a", "b</think>c")),
    ],
)
def test_thoughts_come_apart_wherever_the_text_is_cut(
    text: str, inside: bool, expected: tuple[str, str]
) -> None:
    assert split([text], inside=inside) == expected
    assert split(list(text), inside=inside) == expected
    for cut in range(len(text)):
        assert split([text[:cut], text[cut:]], inside=inside) == expected, cut


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.before)
def test_every_family(marks: Marks) -> None:
    assert marks_of(f"{{% if x %}}{marks.before}{{{{ y }}}}{marks.after}{{% endif %}}") == marks
    assert split([marks.before, "x", marks.after, "y"], marks) == ("x", "y")
    assert is_open(f"<|assistant|>{marks.before}\n", marks)
    assert not is_open(f"{marks.before}\n\n{marks.after}\n\n", marks)


def test_a_template_without_marks_has_no_thoughts() -> None:
    assert marks_of("{{ messages[0].content }}") is None
