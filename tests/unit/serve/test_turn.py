"""Questions made ready for models of several kinds, and their answers read back."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exosuit.engine.batch import Sampled, Sampling
from exosuit.engine.request import Event
from exosuit.errors import RequestError, UnsupportedModel
from exosuit.models.chat import ChatTemplate
from exosuit.models.tokenizer import Tokenizer
from exosuit.serve.answer import Delta, Reader, Whole
from exosuit.serve.constrain import ANY_OBJECT
from exosuit.serve.reasoning import USUAL, Splitter
from exosuit.serve.tools import Choice, Tool
from exosuit.serve.tools.hermes import HermesParser
from exosuit.serve.turn import Conversation, Wishes, ask_chat, ask_text, can_fill

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import vocabularies

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
CHATML = (
    "{% for t in tools or [] %}{{ t | tojson }}<tool_call>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif") + "{# </think> #}"
MAY_THINK = CHATML + "{# <think></think> #}"
Model = Any


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Tokenizer:
    return Tokenizer.from_metadata(vocabularies.smollm2(shared))


def model(tokenizer: Tokenizer, source: str | None) -> Model:
    template = None
    if source is not None:
        template = ChatTemplate(source, control_texts=tokenizer.control_texts)
    return SimpleNamespace(
        tokenizer=tokenizer, template=template, info=SimpleNamespace(name="toy"), context=100
    )


def prompt(tokenizer: Tokenizer, turn: Any) -> str:
    return tokenizer.decode(turn.prompt, special=True)


def test_a_chat_is_rendered_and_asked_as_often_as_wanted(tokenizer: Tokenizer) -> None:
    wishes = Wishes(Sampling(seed=2**32 - 1), 7, ("x",), count=3)
    turn = ask_chat(model(tokenizer, CHATML), Conversation(HELLO), wishes)
    assert prompt(tokenizer, turn) == ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    requests = [request for request, _ in turn.requests()]
    assert [request.sampling.seed for request in requests] == [2**32 - 1, 0, 1]
    assert {request.max_tokens for request in requests} == {7}
    assert {request.constraint for request in requests} == {None}


def test_an_answer_that_was_begun_goes_on(tokenizer: Tokenizer) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Well<|im_end|>, "}]
    turn = ask_chat(model(tokenizer, CHATML), Conversation(begun), Wishes())
    assert prompt(tokenizer, turn).endswith("<|im_start|>assistant\nWell<|im_end|>, ")
    assert turn.prompt.count(2) == 1  # what the message says is no control token
    alone = [{"role": "assistant", "content": "Well"}]
    turn = ask_chat(model(tokenizer, CHATML), Conversation(alone), Wishes())
    assert prompt(tokenizer, turn).endswith("Well<|im_end|>\n<|im_start|>assistant\n")


def test_thoughts_are_looked_for_where_the_template_opens_them(tokenizer: Tokenizer) -> None:
    turn = ask_chat(model(tokenizer, THINKS), Conversation(HELLO), Wishes())
    assert turn.inside
    assert turn.thinks
    assert not ask_chat(model(tokenizer, CHATML), Conversation(HELLO), Wishes()).thinks
    may = ask_chat(model(tokenizer, MAY_THINK), Conversation(HELLO), Wishes())
    assert may.thinks
    assert not may.inside
    forbidden = Conversation(HELLO, think=False)
    assert not ask_chat(model(tokenizer, MAY_THINK), forbidden, Wishes()).thinks
    assert ask_chat(model(tokenizer, THINKS), forbidden, Wishes()).thinks  # it does not ask us


def test_tools_are_offered_read_and_forced(tokenizer: Tokenizer) -> None:
    served = model(tokenizer, CHATML)
    offered = ask_chat(served, Conversation(HELLO, (WEATHER,)), Wishes())
    assert '"weather"' in prompt(tokenizer, offered)
    assert offered.grammars is None
    assert offered.style is not None
    none = ask_chat(served, Conversation(HELLO, (WEATHER,), Choice("none")), Wishes())
    assert '"weather"' not in prompt(tokenizer, none)
    assert none.style is None
    forced = ask_chat(served, Conversation(HELLO, (WEATHER,), Choice("required")), Wishes())
    (pair,) = forced.requests()
    assert pair[0].constraint is not None
    assert forced.grammars is not None
    with pytest.raises(RequestError, match="not offered"):
        ask_chat(served, Conversation(HELLO, (WEATHER,), Choice("required", "other")), Wishes())
    with pytest.raises(RequestError, match="none is offered"):
        ask_chat(served, Conversation(HELLO, (), Choice("required")), Wishes())


def test_with_tools_an_answer_is_a_call_or_of_the_form(tokenizer: Tokenizer) -> None:
    served = model(tokenizer, CHATML)
    both = ask_chat(served, Conversation(HELLO, (WEATHER,)), Wishes(form=ANY_OBJECT))
    assert list(both.grammars or ()) == ["either", "call", "object", "form"]
    assert both.requests()[0][0].constraint is not None
    strict = replace(WEATHER, strict=True)
    kept = ask_chat(served, Conversation(HELLO, (strict, Tool("time"))), Wishes())
    assert kept.grammars is not None
    assert kept.requests()[0][0].constraint is not None


def test_each_answer_has_a_form_of_its_own(tokenizer: Tokenizer) -> None:
    wishes = Wishes(form=ANY_OBJECT, count=2)
    turn = ask_chat(model(tokenizer, CHATML), Conversation(HELLO), wishes)
    first, second = (request.constraint for request, _ in turn.requests())
    assert first is not None
    assert first is not second


def test_a_model_without_a_template_does_not_chat(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnsupportedModel, match="chat template"):
        ask_chat(model(tokenizer, None), Conversation(HELLO), Wishes())


def test_texts_are_continued_as_they_stand(tokenizer: Tokenizer) -> None:
    served = model(tokenizer, None)
    assert ask_text(served, [1, 2, 3], Wishes()).prompt == (1, 2, 3)
    assert 1 in ask_text(served, "<|im_start|>user", Wishes()).prompt


def test_gaps_need_tokens_for_them(tokenizer: Tokenizer, shared: Path) -> None:
    assert not can_fill(tokenizer)
    with pytest.raises(UnsupportedModel, match="suffix"):
        ask_text(model(tokenizer, None), "a", Wishes(), "b")
    roles = {"fim_pre": 3, "fim_suf": 4, "fim_mid": 5}
    keys = {f"tokenizer.ggml.{role}_token_id": id for role, id in roles.items()}
    filling = Tokenizer.from_metadata(vocabularies.smollm2(shared) | keys)
    assert can_fill(filling)
    turn = ask_text(model(filling, None), "def f(", Wishes(), "):\n")
    before, after = (filling.encode(text, add_special=False) for text in ("def f(", "):\n"))
    assert turn.prompt == (3, *before, 4, *after, 5)


# ---- what comes back


def events(text: str, finish: str = "stop") -> list[Event]:
    said = [Event(letter, Sampled(40 + i, -0.5)) for i, letter in enumerate(text)]
    return [*said, Event("", Sampled(2, -0.1), finish)]  # type: ignore[arg-type]


def whole(reader: Reader, told: list[Event]) -> Whole:
    found = Whole()
    for event in told:
        found.add(reader.read(event))
    return found


def test_an_answer_with_thoughts_and_a_call(tokenizer: Tokenizer) -> None:
    text = (
        '<think>Hm.</think>Look:\n<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}'
        "</tool_call>"
    )
    answer = whole(Reader(tokenizer, {}, Splitter(USUAL), HermesParser()), events(text))
    assert answer.thoughts == "Hm."
    assert answer.content == "Look:"
    assert [(call.name, call.as_object()) for call in answer.calls] == [
        ("weather", {"city": "Oslo"})
    ]
    assert answer.finish == "tool_calls"
    assert len(answer.tokens) == len(text)  # without the end token
    assert answer.thought_tokens > 0


def test_an_answer_that_was_cut_says_so(tokenizer: Tokenizer) -> None:
    told = events('<tool_call>{"name": "weather", "arg', "length")
    answer = whole(Reader(tokenizer, {}, None, HermesParser()), told)
    assert answer.finish == "length"
    assert answer.content == '<tool_call>{"name": "weather", "arg'
    begun = events('<tool_call>{"name": "weather", "arguments": {"x"', "length")
    answer = whole(Reader(tokenizer, {}, None, HermesParser()), begun)
    assert answer.calls[0].as_object() is None


def test_control_tokens_that_matter_are_shown(tokenizer: Tokenizer) -> None:
    """A mark that is a control token has no text of its own."""
    reader = Reader(tokenizer, {7: "<tool_call>"}, None, HermesParser())
    told = [Event("", Sampled(7, 0.0)), *events('{"name": "a"}')]
    assert [call.name for call in whole(reader, told).calls] == ["a"]
    plain = Reader(tokenizer)
    assert whole(plain, told).content == '{"name": "a"}'


def test_a_grammar_that_gave_up_is_told(tokenizer: Tokenizer) -> None:
    constraint: Any = SimpleNamespace(problem="too complex")
    reader = Reader(tokenizer, constraint=constraint)
    assert reader.read(Event("x", Sampled(5, 0.0))) == Delta(content="x", tokens=(Sampled(5, 0.0),))
    with pytest.raises(RequestError, match="too complex"):
        reader.read(Event("", Sampled(6, 0.0), "stop"))
