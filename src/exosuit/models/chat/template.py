"""Chat templates: messages in, the prompt that the model expects out.

A template comes from the model's file (`tokenizer.chat_template`), or is ChatML where the caller
asks for that by name; nothing is guessed from the architecture. Whatever a template does, it ends
in a `Prompt` or in a three-line error that names its line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, cast

import jinja2

from exosuit.errors import ExosuitError, RequestError, TemplateFailed, UnsupportedModel
from exosuit.models.chat.budget import Budget, Limits, OverBudget
from exosuit.models.chat.sandbox import Refusal, Sandbox, clock
from exosuit.models.chat.trust import MARK, ControlTokens
from exosuit.models.tokenizer import Segment, Tokenizer

# A role may stand inside a control token ("<|" role "|>"), so it is never free text.
ROLES = frozenset(
    {"system", "developer", "user", "assistant", "tool", "function", "ipython", "model"}
    | {"observation", "critic"}
)

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_MAX_INPUT_DEPTH = 48


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation. `Tokenizer.encode_chat(prompt.segments)` gives its ids."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


class ChatTemplate:
    """One compiled template; any thread may render with it."""

    def __init__(
        self,
        source: str,
        *,
        control_texts: Collection[str] = (),
        bos_token: str = "",
        eos_token: str = "",
        limits: Limits | None = None,
    ) -> None:
        """Compiles `source`. Raises TemplateFailed, with the line, if it is no template.

        control_texts: texts that become control tokens where the template writes them
        """
        self.source = source
        self._limits = limits or Limits()
        self._control = ControlTokens(control_texts)
        self._tokens = {
            "bos_token": self._control.mark(bos_token),
            "eos_token": self._control.mark(eos_token),
        }
        if len(source) > self._limits.source_characters:
            raise _failed(f"has {len(source)} characters", None)
        self._sandbox = Sandbox()
        self._template = self._guarded(
            Budget(self._limits),
            lambda: self._sandbox.translate(source.replace(MARK, "\ufffd"), self._control),
        )

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], tokenizer: Tokenizer, name: str | None = None
    ) -> ChatTemplate:
        """The file's template, or the one it stores under `name` (`tool_use`, `rag`, ...).

        Raises UnsupportedModel if the file has none: the caller decides whether `default` fits.
        """
        key = f"tokenizer.chat_template.{name}" if name else "tokenizer.chat_template"
        source = metadata.get(key)
        if not isinstance(source, str):
            raise UnsupportedModel(
                "the model's file has no chat template",
                cause=f"{key} is missing: it may be a base model, which continues text",
                next="exosuit run MODEL PROMPT --raw",
            )
        return cls._for_tokenizer(source, tokenizer)

    @classmethod
    def default(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """ChatML, for callers who know that their model speaks it."""
        return cls._for_tokenizer(CHATML, tokenizer)

    @classmethod
    def _for_tokenizer(cls, source: str, tokenizer: Tokenizer) -> ChatTemplate:
        def text(id: int | None) -> str:
            return "" if id is None else tokenizer.text_of(id)

        return cls(
            source,
            control_texts=tokenizer.control_texts,
            bos_token=text(tokenizer.bos),
            eos_token=text(tokenizer.eos),
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        now: Callable[[], datetime] = datetime.now,
        **variables: Any,
    ) -> Prompt:
        """The prompt for a conversation.

        messages:  [{"role": one of ROLES, "content": str or list of {"type": "text", "text": str}}]
                   with whatever else the template reads (tool_calls, name, ...)
        variables: further names for the template, such as enable_thinking

        Raises RequestError if the messages do not suit the template, TemplateFailed if the template
        itself is at fault.
        """
        for message in messages:
            _check_role(message)
        plain = _plain({"messages": messages, "tools": tools, **variables})
        plain["messages"] = [self._suited(message) for message in plain["messages"]]
        return self._render(plain, add_generation_prompt, now)

    def _render(
        self,
        plain: dict[str, Any],
        add_generation_prompt: bool,
        now: Callable[[], datetime],
        limits: Limits | None = None,
    ) -> Prompt:
        limits = limits or self._limits
        size = Budget(Limits(value_bytes=1 << 40)).measure(plain)
        variables = plain | self._tokens
        variables["add_generation_prompt"] = add_generation_prompt
        variables["strftime_now"] = clock(now)
        rendered = self._guarded(Budget(limits, size), lambda: self._template.render(variables))
        return Prompt(self._control.segments(rendered))

    # ---- text content or lists of parts: templates know one of them, clients send either

    @cached_property
    def wants_parts(self) -> bool:
        """Whether the template prints text only from a list of parts, found by trying both."""
        probe = "x7f3a"
        brief = replace(self._limits, seconds=self._limits.seconds / 5)

        def shows(content: Any) -> bool:
            messages = [{"role": "user", "content": content}]
            try:
                plain: dict[str, Any] = {"messages": messages, "tools": None}
                prompt = self._render(plain, False, datetime.now, brief)
            except ExosuitError as problem:
                if isinstance(problem.__cause__, OverBudget):
                    raise
                return False
            return probe in prompt.text

        return not shows(probe) and shows([{"type": "text", "text": probe}])

    # ---- tools: many templates print them, others never look

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template prints the tools that it is given, found by trying."""
        probe = "x7f3a"
        function = {"name": probe, "description": "", "parameters": {"type": "object"}}
        plain: dict[str, Any] = {
            "messages": [self._suited({"role": "user", "content": "x"})],
            "tools": [{"type": "function", "function": function}],
        }
        brief = replace(self._limits, seconds=self._limits.seconds / 5)
        try:
            return probe in self._render(plain, True, datetime.now, brief).text
        except ExosuitError:
            return False

    def _suited(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if isinstance(content, str) and self.wants_parts:
            return message | {"content": [{"type": "text", "text": content}]}
        if isinstance(content, list) and not self.wants_parts:
            text = _joined(cast("list[Any]", content))
            return message if text is None else message | {"content": text}
        return message

    def _guarded(self, budget: Budget, work: Callable[[], Any]) -> Any:
        """Runs the sandbox; every way in which a template can fail becomes one of our errors."""
        try:
            with self._sandbox.using(budget):
                return work()
        except Refusal as refusal:
            raise RequestError(
                f"the chat template refuses these messages: {str(refusal)[:300]}",
                cause="its model was not trained on such a conversation",
                next="change the messages (roles that alternate, a system message or none)",
                line=_line(refusal),
            ) from refusal
        except OverBudget as excess:
            raise _failed(str(excess), _line(excess)) from excess
        except jinja2.TemplateSyntaxError as mistake:
            raise _failed(f"is not valid: {mistake.message}", mistake.lineno) from mistake
        except RecursionError as deep:
            raise _failed("calls itself or nests too deeply", None) from deep
        except Exception as problem:  # whatever a stranger's program can raise
            said = f"fails: {type(problem).__name__}: {str(problem)[:300]}"
            raise _failed(said, _line(problem)) from problem


def _failed(how: str, line: int | None) -> TemplateFailed:
    place = "" if line is None else f" in line {line}"
    return TemplateFailed(
        f"the model's chat template {how}{place}",
        cause="the template in the model's file is faulty, hostile, or made for other software",
        next="exosuit run MODEL PROMPT --raw   (no template), or choose another conversion",
        line=line,
    )


def _line(problem: BaseException) -> int | None:
    """The innermost line of the template in a traceback that Jinja has rewritten."""
    line = None
    trace = problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _check_role(message: Any) -> None:
    role = cast("Mapping[str, Any]", message).get("role") if isinstance(message, Mapping) else None
    if role not in ROLES:
        raise RequestError(
            f"a message has the role {role!r}",
            cause=f"known roles are {', '.join(sorted(ROLES))}",
            next='send messages like {"role": "user", "content": "Hello"}',
        )


def _joined(content: list[Any]) -> str | None:
    """The text of a list of parts, or None if one of them is no text."""
    texts: list[str] = []
    for part in content:
        if not isinstance(part, dict):
            return None
        fields = cast("dict[str, Any]", part)
        if fields.get("type") != "text" or not isinstance(fields.get("text"), str):
            return None
        texts.append(fields["text"])
    return "".join(texts)


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of JSON-like data, without the mark; the caller's own stays out of reach."""
    if isinstance(value, str):
        return str(value).replace(MARK, "\ufffd")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth >= _MAX_INPUT_DEPTH:
        raise _not_json(f"lists nested more than {_MAX_INPUT_DEPTH} deep")
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {_plain(str(key)): _plain(part, depth + 1) for key, part in pairs}
    if isinstance(value, (list, tuple)):
        return [_plain(part, depth + 1) for part in cast("Sequence[Any]", value)]
    raise _not_json(f"a {type(value).__name__}")


def _not_json(found: str) -> RequestError:
    return RequestError(
        f"the messages contain {found}",
        cause="messages, tools and template variables are JSON: text, numbers, lists, objects",
        next='send messages like {"role": "user", "content": "Hello"}',
    )
