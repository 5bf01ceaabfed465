"""What the AArch64 code of the products consists of: fast because of these instructions."""

from __future__ import annotations

import re

import pytest

from exosuit.kernel import Target, emit
from exosuit.ops.epilogues import Epilogue
from exosuit.ops.formats import FORMATS, Format
from exosuit.ops.matmul import Tile, matmul

COLUMNS = 512


def _assembly(level: str, format: Format, tokens: int) -> str:
    target = Target.named(level)
    ir = matmul.trace(
        target, rows=16, columns=COLUMNS, stride=16, format=format, tile=Tile(tokens, 1),
        epilogue=Epilogue(),
    ).ir  # fmt: skip
    return emit(ir, target, assembly=True).decode()


@pytest.mark.parametrize("level", ["aarch64-dotprod", "aarch64-i8mm"])
@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_a_dot_takes_its_activations_from_a_lane(level, format, tokens):
    """Two dots per four columns, eight rows and token, and no broadcast of their own."""
    text = _assembly(level, format, tokens)
    dots = re.findall(r"\t[su]+dot\t.*", text)
    assert len(dots) == format.chunk // 4 * 2 * tokens
    assert all(re.search(r"\.4b\[[0-3]\]$", dot) for dot in dots)
    assert len(re.findall(r"\tld1r\t", text)) <= 1 + format.scaled_sums  # a block's sum is one


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_the_lowest_level_has_none(format):
    assert not re.search(r"\t[su]+dot\t", _assembly("aarch64-neon", format, 1))
