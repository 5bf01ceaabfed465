"""Jinja for templates by strangers: the immutable sandbox, with a budget put into the template.

Jinja's sandbox keeps a template away from Python's internals. `_Guard` rewrites the syntax tree so
that every loop turn, macro call, concatenation, comparison and new list is also counted; filters,
tests, operators and calls are counted where Jinja looks them up. Source: Jinja 3.1 ("Sandbox",
"Extensions", "Low Level API").
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, ItemsView, Iterable, KeysView, ValuesView
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from exosuit.models.chat import operations
from exosuit.models.chat.budget import NODE_BYTES, Budget, OverBudget
from exosuit.models.chat.trust import ControlTokens, Marker


class Refusal(Exception):
    """The template called `raise_exception`: the messages are not what it can render."""


class _Generation(Extension):
    """`{% generation %}` marks the model's part for training; rendering ignores the marks."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """One environment per template. Rendering is safe from any thread."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=self._output,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        self._threads = threading.local()
        self.filters = operations.filters(lambda: self.budget)
        self.tests = operations.tests(lambda: self.budget)
        self.globals = {
            "range": safe_range,
            "namespace": Namespace,
            "dict": dict,
            "raise_exception": _refuse,
        }

    @property
    def budget(self) -> Budget:
        return self._threads.budget

    @contextmanager
    def using(self, budget: Budget) -> Generator[None]:
        """Everything this thread compiles or renders inside pays from `budget`."""
        self._threads.budget = budget
        try:
            yield
        finally:
            del self._threads.budget

    def translate(self, source: str, control: ControlTokens) -> jinja2.Template:
        """Compiles a template with its literals marked and its guards in place."""
        tree = Marker(control).visit(self.parse(source))
        tree = _Guard().visit(tree)
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    # ---- what the guards and Jinja's hooks call

    def charge(self, value: Any) -> Any:
        return self.budget.charge(value)

    def part(self, value: Any) -> Any:
        """A value that is about to be written into a longer text."""
        self.budget.measure(value)
        return value

    def tick(self, literal_characters: int) -> None:
        """One turn of a loop or one call of a macro, which writes that many literal characters."""
        self.budget.spend(NODE_BYTES + 4 * literal_characters)

    def _output(self, value: Any) -> Any:
        self.budget.spend(self.budget.measure(value))
        return value

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's safe `str.format`, with a bound on what its widths and fields could make."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            operations.check_braces(self.budget, value.__self__, [*args, kwargs])
            return safe(*args, **kwargs)

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        operations.operate(self.budget, operator, left, right)
        return self.budget.charge(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if owner is __self:
            return __obj(*args)
        if isinstance(owner, (str, list, tuple, dict)):
            kwargs = {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
            name = __obj.__name__
            known = (
                operations.STRING_METHODS
                if isinstance(owner, str)
                else operations.CONTAINER_METHODS
            )
            if name not in known:
                raise jinja2.exceptions.SecurityError(f"the method {name!r} is not offered")
            if isinstance(owner, str):
                given = [*args, owner] if name == "join" else [owner, *args]
                operations.check(name, __self.budget, given, kwargs)
            result = __obj(*args, **kwargs)
            return __self.budget.charge(result if isinstance(owner, str) else _listed(result))
        return __self.budget.charge(super().call(__context, __obj, *args, **kwargs))


def clock(now: Callable[[], datetime]) -> Callable[[str], str]:
    """The `strftime_now` of a rendering; field widths, which could be huge, are refused."""

    def strftime_now(pattern: str) -> str:
        if len(pattern) > 256 or re.search(r"%[^a-zA-Z%]*\d", pattern):
            raise OverBudget("formats a date with a width")
        return now().strftime(pattern)

    return strftime_now


def _refuse(message: Any = "") -> None:
    raise Refusal(str(message))


def _listed(result: Any) -> Any:
    """Dictionary views as lists: measurable, and indexable as some templates expect."""
    if isinstance(result, (KeysView, ValuesView, ItemsView)):
        return list(cast("Iterable[Any]", result))
    return result


class _Guard(NodeTransformer):
    """Wraps what makes values, and counts what repeats."""

    def _wrapped(self, method: str, node: nodes.Node) -> nodes.Call:
        guard = nodes.EnvironmentAttribute(method, lineno=node.lineno)
        return nodes.Call(guard, [node], [], None, None, lineno=node.lineno)

    def _counted(self, node: Any) -> Any:
        literals = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node = self.generic_visit(node)
        tick = self._wrapped("tick", nodes.Const(literals, lineno=node.lineno))
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _counted

    def _charged(self, node: Any) -> nodes.Node:
        return self._wrapped("charge", self.generic_visit(node))

    visit_List = visit_Dict = visit_Compare = _charged

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._charged(node) if node.ctx == "load" else self.generic_visit(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        return (
            self._charged(node) if isinstance(node.arg, nodes.Slice) else self.generic_visit(node)
        )

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._wrapped("part", part) for part in node.nodes]
        return self._wrapped("charge", node)

    def _refused(self, node: nodes.Node) -> nodes.Node:
        raise jinja2.TemplateSyntaxError(
            f"{type(node).__name__.lower()} is not offered to templates", node.lineno
        )

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _refused
    visit_ScopedEvalContextModifier = visit_EvalContextModifier = _refused
