"""Keeps apart what a template wrote from what the messages said.

Every place in the template's own literals where a control token stands, or could begin (`"<|"`
before a role), gets an invisible mark in front. The marks travel through concatenation, trimming
and macros like any character; message text never has one. In the rendered prompt a control token
counts only where a mark stands before it: whatever a user types, it stays text.

Literals that are only compared with (`x in message`, `.split("</s>")`) stay unmarked, so templates
read messages as their authors meant. Limit: a template that itself writes the beginning of a
control token directly before message text lets that text complete it; roles, where that is usual,
are therefore a closed list (`template.ROLES`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from exosuit.models.tokenizer import Segment

MARK = "\U0010ffff"  # a noncharacter: valid in Python strings, never in interchanged text
_MATCHING_METHODS = frozenset(
    {"startswith", "endswith", "find", "rfind", "index", "count", "split", "rsplit", "partition"}
    | {"rpartition", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}
)


class ControlTokens:
    """The texts of a model's control tokens, arranged for marking and for finding. Immutable."""

    def __init__(self, texts: Iterable[str]) -> None:
        by_first: dict[str, list[str]] = {}
        for text in sorted(filter(None, texts), key=len, reverse=True):
            by_first.setdefault(text[0], []).append(text)
        self._by_first = by_first

    def mark(self, literal: str) -> str:
        """The literal with a mark before each control token, whole or begun at its very end."""
        out: list[str] = []
        position = 0
        while position < len(literal):
            whole = self._at(literal, position)
            rest = literal[position:]
            if whole:
                out.append(MARK + whole)
                position += len(whole)
            elif any(text.startswith(rest) for text in self._by_first.get(literal[position], ())):
                out.append(MARK + rest)
                break
            else:
                out.append(literal[position])
                position += 1
        return "".join(out)

    def segments(self, rendered: str) -> tuple[Segment, ...]:
        """Cuts a rendered prompt at the control tokens that the template wrote; drops the marks."""
        pieces = rendered.split(MARK)
        text = "".join(pieces)
        segments: list[Segment] = []
        start = position = 0
        for piece in pieces[:-1]:
            position += len(piece)
            token = self._at(text, position) if position >= start else None
            if token:
                if position > start:
                    segments.append(Segment(text[start:position]))
                segments.append(Segment(token, special=True))
                start = position + len(token)
        if start < len(text):
            segments.append(Segment(text[start:]))
        return tuple(segments)

    def _at(self, text: str, position: int) -> str | None:
        candidates = self._by_first.get(text[position : position + 1], ())
        return next((token for token in candidates if text.startswith(token, position)), None)


class Marker(NodeTransformer):
    """Marks the literals of a template's syntax tree that can reach the prompt."""

    def __init__(self, control: ControlTokens) -> None:
        self._control = control

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._control.mark(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = self._control.mark(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        return node

    def visit_Getitem(self, node: nodes.Getitem, *arguments: Any) -> nodes.Node:
        node.node = self.visit(node.node)
        return node

    def visit_Call(self, node: nodes.Call, *arguments: Any) -> nodes.Node:
        callee = node.node
        if isinstance(callee, nodes.Getattr) and callee.attr in _MATCHING_METHODS:
            callee.node = self.visit(callee.node)
            return node
        return self.generic_visit(node)
