"""The filters, tests, methods and operators that templates have, each with a bound on its result.

The lists are what published chat templates use. An operation that can multiply its input (repeat,
join, replace, format, indent) is bounded from its arguments before it runs; the others make at most
a small multiple of what they are given, which is measured. Source: Jinja 3.1, "List of Builtin
Filters"; the Transformers library's description of chat templates for `tojson`.
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, cast

from jinja2.filters import FILTERS
from jinja2.runtime import LoopContext
from jinja2.tests import TESTS

from exosuit.models.chat.budget import NODE_BYTES, Budget, OverBudget


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_JINJA_FILTERS = _names(
    """abs attr capitalize count d default dictsort first float groupby int items join last length
    list lower map max min reject rejectattr reverse round select selectattr sort string title
    trim truncate unique upper urlencode wordcount"""
)
_JINJA_TESTS = [name for name in TESTS if name not in ("filter", "test")]
# These look at their input without walking it, and may look at anything.
_CONSTANT_TIME = _names("attr count d default first last length")

STRING_METHODS = _names(
    """capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit
    islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix
    replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title
    upper"""
)
CONTAINER_METHODS = _names("copy count get index items keys values")

_MAX_INDENT = 16
_MAX_DECIMALS = 32


def filters(budget: Callable[[], Budget]) -> dict[str, Callable[..., Any]]:
    """Every filter, wrapped so that it pays from the budget of the rendering under way."""
    chosen = {name: FILTERS[name] for name in _JINJA_FILTERS} | _OWN_FILTERS
    return {name: _guarded(name, function, budget) for name, function in chosen.items()}


def tests(budget: Callable[[], Budget]) -> dict[str, Callable[..., Any]]:
    def guarded(test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def run(*arguments: Any) -> Any:
            for argument in arguments:
                budget().charge(argument)
            return test(*arguments)

        return run

    return {name: guarded(TESTS[name]) for name in _JINJA_TESTS}


def _guarded(
    name: str, function: Callable[..., Any], budget: Callable[[], Budget]
) -> Callable[..., Any]:
    """Checks arguments before, pays for the result after; nothing stays lazy in between."""
    passed_by_jinja = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        given = [_complete(argument) for argument in arguments[passed_by_jinja:]]
        if name not in _CONSTANT_TIME:
            check(name, budget(), given, named)
        result = function(*arguments[:passed_by_jinja], *given, **named)
        return budget().charge(_complete(result))

    return run


def _complete(value: Any) -> Any:
    """Generators and ranges become lists, so that they can be measured."""
    if isinstance(value, (Iterator, range)) and not isinstance(value, LoopContext):
        return list(cast("Iterable[Any]", value))
    return value


def check(name: str, budget: Budget, arguments: list[Any], named: Mapping[str, Any]) -> None:
    """Raises OverBudget if filter or method `name` could make too much of these arguments.

    `arguments` starts with the value that is filtered (for `join`, what is joined).
    """
    sizes = [budget.measure(argument) for argument in arguments]
    total = sum(sizes) + sum(map(budget.measure, named.values()))
    first = arguments[0] if arguments else ""
    beside_first = total - (sizes[0] if sizes else 0)
    match name:
        case "replace":
            old = str(arguments[1]) if len(arguments) > 1 else ""
            budget.allow(total + str(first).count(old) * beside_first)
        case "join":
            budget.allow(2 * total + _length(first) * beside_first)
        case "format":
            check_format(budget, str(first), beside_first)
        case "indent":
            width = named.get("width", arguments[1] if len(arguments) > 1 else 4)
            _require("indents", width, _MAX_INDENT)
            budget.allow(total + 4 * _MAX_INDENT * (str(first).count("\n") + 1))
        case "tojson":
            width = named.get("indent", arguments[2] if len(arguments) > 2 else None)
            _require("indents", width or 0, _MAX_INDENT)
            # every object may stand on a line of its own, at whatever depth
            budget.allow(2 * total + (total // NODE_BYTES * 4 * (width or 0) * _depth(first)))
        case "round":
            for decimals in (*arguments[1:2], *(v for k, v in named.items() if k == "precision")):
                _require("rounds", abs(decimals), _MAX_DECIMALS)
        case _:
            budget.allow(total)


def check_format(budget: Budget, pattern: str, arguments_size: int) -> None:
    """Bounds `pattern % arguments`; widths and precisions of thousands are refused."""
    if re.search(r"%[^%a-zA-Z]*(\*|\d{4})", pattern):
        raise OverBudget("formats with a width of thousands")
    budget.allow(4 * len(pattern) + pattern.count("%") * (8000 + arguments_size))


def check_braces(budget: Budget, pattern: str, arguments: list[Any]) -> None:
    """Bounds `pattern.format(arguments)`; large or computed widths are refused."""
    if re.search(r":[^}]*(\{|\d{4})", pattern):
        raise OverBudget("formats with a width of thousands")
    budget.allow(4 * len(pattern) + pattern.count("{") * (8000 + budget.measure(arguments)))


def operate(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Bounds the result of `left operator right` before it is computed."""
    match operator, left, right:
        case "*", int(), int():
            budget.allow_bits(left.bit_length() + right.bit_length())
        case ("*", int(count), many) | ("*", many, int(count)):
            budget.allow(budget.measure(many) * max(count, 1))
        case "**", int(), int():
            budget.allow_bits(left.bit_length() * abs(right))
        case "%", str(), _:
            check_format(budget, left, budget.measure(right))
        case _:
            budget.allow(budget.measure(left) + budget.measure(right))


def _require(verb: str, amount: Any, most: int) -> None:
    if not isinstance(amount, int) or not 0 <= amount <= most:
        raise OverBudget(f"{verb} by something other than 0 to {most}")


def _length(value: Any) -> int:
    return len(cast("Sized", value)) if isinstance(value, (str, list, tuple, Mapping)) else 1


def _depth(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, cast("Mapping[Any, Any]", value).values()), default=0)
    if isinstance(value, (list, tuple)):
        return 1 + max(map(_depth, cast("Sequence[Any]", value)), default=0)
    return 0


# ---- filters that differ from Jinja's: no HTML escapes in JSON, no markup, numbers only in sums


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _indent(text: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
    lines = str(text).split("\n")
    return "\n".join(
        " " * width + line if (place or first) and (line or blank) else line
        for place, line in enumerate(lines)
    )


def _replace(text: Any, old: Any, new: Any, count: int = -1) -> str:
    return str(text).replace(str(old), str(new), count)


def _format(pattern: Any, *values: Any, **named: Any) -> str:
    return str(pattern) % (named or values)


def _sum(values: Any, start: int = 0) -> int | float:
    return sum((v if isinstance(v, (int, float)) else int(v) for v in values), start)


def _escape(text: Any) -> str:
    return html.escape(str(text))


_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "tojson": tojson,
    "indent": _indent,
    "replace": _replace,
    "format": _format,
    "sum": _sum,
    "escape": _escape,
    "e": _escape,
    "safe": str,
}
