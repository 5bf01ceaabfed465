"""From a client's question to what the engine is asked: prompt, form, and how to read the answer.

The dialects bring their requests into these values; everything that depends on the model (its
template, its style of tool calls, its thoughts) is decided here. Rendering and tokenising a long
conversation takes a while, so `ask_chat` and its like are run in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from exosuit.engine.batch import Sampling
from exosuit.engine.request import Request
from exosuit.errors import RequestError, UnsupportedModel
from exosuit.models.chat import render_conversation
from exosuit.models.tokenizer import Segment, Tokenizer
from exosuit.serve.answer import Answer, Reader
from exosuit.serve.constrain import Form, Grammars, constraints_for, grammars_of
from exosuit.serve.reasoning import USUAL, Marks, Splitter, is_open, marks_of
from exosuit.serve.service import ServedModel
from exosuit.serve.tools import HERMES, Choice, Style, Tool, style_of


@dataclass(frozen=True)
class Wishes:
    """How an answer is made, whatever the question; see `engine.request.Request`.

    form   what it must look like
    count  answers to the same question; the seed grows by one for each
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    form: Form | None = None
    count: int = 1


@dataclass(frozen=True)
class Conversation:
    """A chat that waits for its next message.

    messages    as `models.chat.render_conversation` takes them, at least one; a last one by the
                assistant is continued
    many_calls  a forced call may be followed by more
    think       whether the model shall think first; None as its template does by itself
    variables   further names for the template
    """

    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...] = ()
    choice: Choice = field(default_factory=Choice)
    many_calls: bool = False
    think: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Turn:
    """A question made ready for one model.

    grammars  the answer's form; None where it is free
    marks     of thoughts; None where they are not looked for
    inside    the prompt ends within thoughts
    thinks    thoughts may come before the form: the template has them, or has opened them already
    """

    model: ServedModel
    prompt: tuple[int, ...]
    wishes: Wishes
    grammars: Grammars | None = None
    style: Style | None = None
    tools: tuple[Tool, ...] = ()
    marks: Marks | None = None
    inside: bool = False
    thinks: bool = False

    def requests(self) -> list[tuple[Request, Reader]]:
        """One for each answer that is wanted, with its reader."""
        return [self._request(number) for number in range(self.wishes.count)]

    def _request(self, number: int) -> tuple[Request, Reader]:
        wishes, tokenizer = self.wishes, self.model.tokenizer
        constraint = None
        if self.grammars is not None:
            marks = self.marks if self.thinks else None
            constraint = constraints_for(tokenizer).make(self.grammars, marks, self.inside)
        request = Request(
            self.prompt,
            replace(wishes.sampling, seed=(wishes.sampling.seed + number) % 2**32),
            wishes.max_tokens,
            wishes.stop,
            constraint,
        )
        reader = Reader(
            tokenizer,
            _shown(tokenizer, self.style, self.marks),
            Splitter(self.marks, self.inside) if self.marks else None,
            self.style.parser(self.tools) if self.style else None,
            constraint,
        )
        return request, reader


def ask_chat(model: ServedModel, conversation: Conversation, wishes: Wishes) -> Turn:
    """A chat; UnsupportedModel without a template, RequestError and TemplateFailed from it."""
    template = model.template
    if template is None:
        raise UnsupportedModel(
            f"{model.info.name} has no chat template",
            cause="it continues text; nobody taught it to answer messages",
            next="ask for a completion (/v1/completions, /api/generate), or use a chat model",
        )
    tools = _offered(conversation)
    messages, begun = _without_beginning(conversation.messages)
    variables = {"enable_thinking": conversation.think, "thinking": conversation.think}
    own = style_of(template.source) if template.knows_tools else None
    rendered = render_conversation(
        template,
        messages,
        [tool.for_template() for tool in tools],
        variables | dict(conversation.variables),
        in_words=own is None,
    )
    segments = (*rendered.segments, Segment(begun)) if begun else rendered.segments
    marks = marks_of(template.source)
    style = own or HERMES  # the style of the words, too
    inside = marks is not None and not begun and is_open(rendered.text, marks)
    turn = Turn(
        model,
        tuple(model.tokenizer.encode_chat(segments)),
        wishes,
        marks=marks or USUAL,
        inside=inside,
        thinks=inside or (marks is not None and conversation.think is not False),
    )
    grammars = None if wishes.form is None else grammars_of(wishes.form)
    if tools:
        grammars = _with_calls(model, style, tools, conversation, grammars)
        turn = replace(turn, style=style, tools=tools)
    return replace(turn, grammars=grammars)


def ask_text(
    model: ServedModel, prompt: str | Sequence[int], wishes: Wishes, suffix: str | None = None
) -> Turn:
    """A text to be continued, control tokens in it included; before `suffix`, if there is one."""
    if suffix is not None:
        tokens = _between(model, prompt, suffix)
    elif isinstance(prompt, str):
        tokens = model.tokenizer.encode(prompt, parse_special=True)
    else:
        tokens = list(prompt)
    grammars = None if wishes.form is None else grammars_of(wishes.form)
    return Turn(model, tuple(tokens), wishes, grammars)


async def asked(ask: Callable[[], Turn | list[Turn]]) -> tuple[list[Turn], list[Answer]]:
    """Make questions ready in a thread, and begin their answers, those of a question together.

    If the engine refuses one of them, none goes on.
    """

    def ready() -> tuple[list[Turn], list[tuple[ServedModel, Request, Reader]]]:
        found = ask()
        turns = found if isinstance(found, list) else [found]
        return turns, [(turn.model, *pair) for turn in turns for pair in turn.requests()]

    turns, requests = await asyncio.to_thread(ready)
    answers: list[Answer] = []
    try:
        for model, request, reader in requests:
            answers.append(Answer(model.generate(request), reader))
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return turns, answers


def can_fill(tokenizer: Tokenizer) -> bool:
    """Whether the model was taught to fill a gap between two texts."""
    return {"fim_prefix", "fim_suffix", "fim_middle"} <= tokenizer.special.keys()


def _between(model: ServedModel, prefix: str | Sequence[int], suffix: str) -> list[int]:
    """Prefix, suffix, middle: the order that all such models know."""
    tokenizer = model.tokenizer
    if not can_fill(tokenizer):
        raise UnsupportedModel(
            f"{model.info.name} cannot fill in between a text and its suffix",
            cause="its vocabulary has no tokens for it (fill-in-the-middle)",
            next="leave the suffix out, or use a model for code such as qwen2.5-coder",
        )
    roles = tokenizer.special
    before = tokenizer.encode(prefix, add_special=False) if isinstance(prefix, str) else prefix
    start = [tokenizer.bos] if tokenizer.add_bos and tokenizer.bos is not None else []
    after = tokenizer.encode(suffix, add_special=False, continues=True)
    return [
        *start, roles["fim_prefix"], *before, roles["fim_suffix"], *after, roles["fim_middle"]
    ]  # fmt: skip


def _offered(conversation: Conversation) -> tuple[Tool, ...]:
    """The tools that may be called now; RequestError for a choice of one that is not there."""
    choice, tools = conversation.choice, conversation.tools
    if choice.kind == "none":
        return ()
    if choice.name is None and (tools or choice.kind == "auto"):
        return tools
    if any(tool.name == choice.name for tool in tools):
        return tools
    raise RequestError(
        f"the tool {choice.name!r} is to be called, and is not offered"
        if choice.name
        else "a tool is to be called, and none is offered",
        cause=f"the tools of the request are: {', '.join(t.name for t in tools) or 'none'}",
        next="put it into the request's tools, or choose another one",
    )


def _with_calls(
    model: ServedModel,
    style: Style,
    tools: Sequence[Tool],
    conversation: Conversation,
    form: Grammars | None,
) -> Grammars | None:
    """What the answer is held to when there are tools: a call if there must be one, a call or the
    form, or calls that obey their schemas where a tool is strict.
    """
    choice = conversation.choice
    spell = constraints_for(model.tokenizer).spell
    if choice.kind == "required":
        allowed = [tool for tool in tools if choice.name in (None, tool.name)]
        return style.pattern(allowed, spell).forced(spell, conversation.many_calls)
    if form is not None:
        calls = style.pattern(tools, spell).forced(spell, conversation.many_calls)
        either = {"lark_grammar": f"start: @call | @{next(iter(form))}"}
        return {"either": either, **calls, **form}
    if not any(tool.strict for tool in tools):
        return None
    loose: dict[str, Any] = {"type": "object"}
    held = [tool if tool.strict else replace(tool, parameters=loose) for tool in tools]
    return style.pattern(held, spell).kept(spell)


def _without_beginning(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The messages, and the beginning of the answer if the last of them is one."""
    *before, last = messages
    content = last.get("content")
    is_begun = last.get("role") == "assistant" and not last.get("tool_calls")
    if before and is_begun and isinstance(content, str) and content:
        return before, content
    return messages, ""


def _shown(tokenizer: Tokenizer, style: Style | None, marks: Marks | None) -> dict[int, str]:
    """The control tokens among the marks that readers look for."""
    texts = [*(style.markers if style else ()), *((marks.before, marks.after) if marks else ())]
    hidden = tokenizer.control_texts
    return {tokenizer.vocabulary.ids[text]: text for text in texts if text in hidden}
