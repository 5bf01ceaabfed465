"""Numbers and names of gfx11's opcodes, from the generated table beside this file.

Names are LLVM's mnemonics without the suffixes of encodings. VOPD's halves have tables of their
own, VOPDX and VOPDY; FLAT, SCRATCH and GLOBAL share an encoding.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

Tables = Mapping[str, Mapping[int, str]]


@cache
def opcodes() -> Tables:
    """For each table, the name of each opcode that has one."""
    text = files("exosuit.silicon.amd.isa").joinpath("opcodes_gfx11.toml").read_text("utf-8")
    return {
        table: {int(number): name for number, name in rows.items()}
        for table, rows in tomllib.loads(text).items()
    }


@cache
def _numbers(table: str) -> Mapping[str, int]:
    return {name: number for number, name in opcodes()[table].items()}


def opcode(table: str, name: str) -> int:
    """The number of an operation; KeyError if that table lacks it."""
    return _numbers(table)[name]
