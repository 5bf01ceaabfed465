"""Routines that translated code calls: made into host code once and shared by all programs.

What is large or needs a loop over lanes lives here, so that a program's own code stays small and
quick to translate. Routines find registers as memory in the wave's state. Translated code reaches
them through a table of pointers, in the order of `names`.
"""

from __future__ import annotations

from functools import cache

from exosuit.softcard.amd.isa.routines import atomics, dots, lanes, mathematics, matrices, transfers
from exosuit.softcard.amd.isa.routines.atomics import ATOMICS
from exosuit.softcard.amd.isa.routines.writing import Routine

_ROOMS = (transfers, atomics, lanes, dots, matrices, mathematics)


@cache
def _all() -> dict[str, Routine]:
    return {routine.name: routine for room in _ROOMS for routine in room.routines()}


def names() -> list[str]:
    """Every routine, in the order of the table."""
    return list(_all())


@cache
def _indices() -> dict[str, int]:
    return {name: index for index, name in enumerate(_all())}


def index_of(name: str) -> int:
    """Where a routine stands in the table; KeyError if there is none of that name."""
    return _indices()[name]


def module_text() -> str:
    """The IR of all routines."""
    declarations: dict[str, str] = {}
    texts: list[str] = [transfers.SHARED]
    for routine in _all().values():
        texts.append(routine.text())
        declarations |= routine.function.declarations
    return "\n".join([*texts, *declarations.values(), ""])


__all__ = ["ATOMICS", "index_of", "module_text", "names"]
