"""Chats: turns are kept and found again, and no end of an answer makes a chat useless."""

import pytest
from tests.unit.engine.fakes import FakeRunner, Words, toy_choice

from exosuit.engine.batch import Sampling
from exosuit.engine.engine import Engine
from exosuit.engine.session import Chat, Continuation
from exosuit.errors import ContextFull, RequestError
from exosuit.models.chat import ChatTemplate
from exosuit.models.tokenizer import Segment

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ENDS = 128


class Letters(Words):
    """Every ASCII character is a token; one more ends an answer."""

    def __init__(self) -> None:
        super().__init__([chr(k) for k in range(128)] + [""], ends=[ENDS])

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return list(text.encode())

    def encode_chat(self, segments: list[Segment]) -> list[int]:
        return [token for segment in segments for token in self.encode(segment.text)]


def sentence(text, sampling) -> int:
    """Small letters, and an end after 20 of them."""
    said = text[len(text) - list(reversed(text)).index(ord(">")) :]
    return ENDS if len(said) == 20 else 97 + toy_choice(26)(text, sampling)


def chat(context: int = 512, **options) -> tuple[Chat, FakeRunner]:
    runner = FakeRunner(sentence, vocabulary=129, context=context)
    words = Letters()
    options.setdefault("sampling", Sampling(temperature=0))
    return Chat(Engine(runner, words), words, ChatTemplate(TEMPLATE), **options), runner


def said(generator) -> str:
    return "".join(event.text for event in generator)


def test_turns_are_kept_and_their_pages_used_again():
    talk, runner = chat(system="Be kind.")
    first = said(talk.ask("Hello there, how are you? " * 4))
    assert len(first) == 20
    second = talk.ask("And now?")
    said(second)
    assert [m["role"] for m in talk.messages] == ["system", *["user", "assistant"] * 2]
    assert talk.turns[1]["content"] == first
    text = bytes(runner.steps[0][0].tokens).decode()
    assert text.startswith("<system>Be kind.\n<user>Hello")
    starts = [runs[0].start for runs in runner.steps]
    assert 128 in starts[20:], "the second turn starts behind the pages of the first"


def test_an_interrupted_answer_is_kept_as_far_as_it_came():
    talk, runner = chat()
    part = said(talk.ask("Hello", lambda: len(runner.steps) == 5))
    assert len(part) == 5
    assert talk.turns[-1] == {"role": "assistant", "content": part}
    assert len(said(talk.ask("Go on"))) == 20
    assert len(talk.turns) == 4


def test_an_answer_that_is_dropped_is_kept_as_far_as_it_came():
    talk, _ = chat()
    answer = talk.ask("Hello")
    part = next(answer).text + next(answer).text
    answer.close()
    assert talk.turns[-1] == {"role": "assistant", "content": part}


def test_a_question_without_any_answer_is_taken_back():
    talk, _ = chat()
    assert said(talk.ask("Hello", lambda: True)) == ""
    assert talk.turns == []


def test_a_conversation_that_is_full_says_so_and_can_be_cleared():
    talk, _ = chat(context=160, system="Be kind.")
    said(talk.ask("a" * 60))
    before = list(talk.turns)
    with pytest.raises(ContextFull) as full:
        said(talk.ask("b" * 60))
    assert "the conversation has" in full.value.what
    assert "/clear" in full.value.next
    assert full.value.fields["context"] == 160
    assert talk.turns == before
    talk.clear()
    assert len(said(talk.ask("b" * 60))) == 20
    assert talk.system == "Be kind."


def test_a_first_message_that_is_too_long_is_not_told_to_clear():
    talk, _ = chat(context=100)
    with pytest.raises(ContextFull) as full:
        said(talk.ask("a" * 100))
    assert "/clear" not in full.value.next
    assert talk.turns == []


def test_an_answer_ends_where_the_context_does():
    talk, _ = chat(context=64)
    generation = talk.ask("a" * 35)
    part = said(generation)
    assert 0 < len(part) < 20
    assert talk.turns[-1]["content"] == part


def test_a_failing_device_keeps_the_conversation(monkeypatch):
    talk, runner = chat()
    said(talk.ask("Hello"))
    monkeypatch.setattr(runner, "run", lambda runs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        said(talk.ask("Again"))
    monkeypatch.undo()
    assert len(talk.turns) == 2
    assert len(said(talk.ask("Again"))) == 20


def test_a_template_that_refuses_leaves_the_chat_as_it_was():
    talk, _ = chat()
    talk._template = ChatTemplate("{{ raise_exception('no') }}")
    with pytest.raises(RequestError):
        said(talk.ask("Hello"))
    assert talk.turns == []


def test_a_continuation_knows_nothing_of_before():
    runner = FakeRunner(sentence, vocabulary=129)
    words = Letters()
    partner = Continuation(
        Engine(runner, words), words, sampling=Sampling(temperature=0), max_tokens=7
    )
    assert said(partner.ask("x>")) == said(partner.ask("x>"))
    assert bytes(runner.steps[0][0].tokens) == b"x>"
