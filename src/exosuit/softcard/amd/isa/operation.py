"""What a table says of one operation: the kinds of its operands, how its result is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exosuit.softcard.translation.ir import Lanes

Compute = (
    Callable[[Lanes], Lanes]
    | Callable[[Lanes, Lanes], Lanes]
    | Callable[[Lanes, Lanes, Lanes], Lanes]
)
"""Operands to result."""


class Untranslated(Exception):
    """An instruction, or a use of one, that has no translation."""


@dataclass(frozen=True)
class Operation:
    """One lane's arithmetic.

    result       kind of the result (see `Wave.operand`)
    sources      kinds of the sources, in the order of the encoding
    compute      operands to result
    accumulates  what the destination held is a further operand
    chooses      the result is one of its float operands: min, max and their like
    """

    result: str
    sources: tuple[str, ...]
    compute: Callable[..., Lanes]
    accumulates: bool = False
    chooses: bool = False


def op(result: str, sources: str, compute: Compute, **flags: bool) -> Operation:
    """An `Operation` with its sources in one string."""
    return Operation(result, tuple(sources.split()), compute, **flags)
