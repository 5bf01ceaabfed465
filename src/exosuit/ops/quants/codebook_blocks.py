"""Types whose values are looked up: the IQ types.

IQ4 looks up single values; IQ1 to IQ3 look up four or eight at a time (`codebooks`), with their
signs or a common offset stored apart. Fields as in ggml-common.h of llama.cpp; sums and products
are rounded in ggml's order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.ops.quants.codebooks import codebook
from exosuit.ops.quants.layouts import Blocks, Floats, Values, bits, expands, floats, neighbours
from exosuit.ops.quants.storage import StorageType

IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""kvalues_iq4nl of ggml-common.h."""

OFFSET = 0.125
"""What is added to the entries of IQ1, or taken from them."""


@expands(StorageType.IQ4_NL, ("d", "<f2"), ("qs", "16u1"))
def iq4_nl(blocks: Blocks) -> Values:
    return floats(blocks["d"]) * IQ4_VALUES[bits(blocks["qs"], 4).reshape(len(blocks), 32)]


@expands(
    StorageType.IQ4_XS,
    ("d", "<f2"), ("scales_h", "<u2", (1,)), ("scales_l", "4u1"), ("qs", "(8,16)u1"),
)  # fmt: skip
def iq4_xs(blocks: Blocks) -> Values:
    """A six-bit scale for each 32 values: four low bits, two high bits."""
    high = neighbours(blocks["scales_h"], 2).astype(np.uint8)
    scales = (neighbours(blocks["scales_l"], 4) | high << 4).view(np.int8) - np.int8(32)
    values = IQ4_VALUES[bits(blocks["qs"], 4).reshape(len(blocks), 8, 32)]
    return (floats(blocks["d"]) * scales)[..., None] * values


@expands(StorageType.IQ2_XXS, ("d", "<f2"), ("groups", [("grid", "4u1"), ("signs", "<u4")], 8))
def iq2_xxs(blocks: Blocks) -> Values:
    """Groups of 32: four entries of the codebook, four 7-bit signs, a 4-bit scale."""
    groups = blocks["groups"]
    scale = floats(blocks["d"]) * (0.5 + _small(groups["signs"] >> 28)) * 0.25
    values = _entries("IQ2_XXS", groups["grid"]) * _seven_signs(groups["signs"])
    return scale[..., None, None] * values


@expands(StorageType.IQ2_XS, ("d", "<f2"), ("qs", "(16,2)<u2"), ("scales", "8u1"))
def iq2_xs(blocks: Blocks) -> Values:
    """Nine bits choose an entry, seven its signs; a scale for each two entries."""
    scale = floats(blocks["d"]) * (0.5 + _small(neighbours(blocks["scales"], 4))) * 0.25
    values = _entries("IQ2_XS", blocks["qs"] & 511) * _even_signs()[blocks["qs"] >> 9]
    return scale[..., None, None] * values


@expands(
    StorageType.IQ2_S,
    ("d", "<f2"), ("qs", "32u1"), ("signs", "32u1"), ("qh", "8u1"), ("scales", "8u1"),
)  # fmt: skip
def iq2_s(blocks: Blocks) -> Values:
    scale = floats(blocks["d"]) * (0.5 + _small(neighbours(blocks["scales"], 4))) * 0.25
    index = blocks["qs"] | neighbours(blocks["qh"], 2).astype(np.uint16) << 8
    values = _entries("IQ2_S", index) * _signs()[blocks["signs"]]
    return scale[..., None, None] * values.reshape(len(blocks), 16, 2, 8)


@expands(StorageType.IQ3_XXS, ("d", "<f2"), ("qs", "(8,8)u1"), ("signs", "8<u4"))
def iq3_xxs(blocks: Blocks) -> Values:
    """Groups of 32: eight entries of four values, four 7-bit signs, a 4-bit scale."""
    scale = floats(blocks["d"]) * (0.5 + _small(blocks["signs"] >> 28)) * 0.5
    values = _entries("IQ3_XXS", blocks["qs"]).reshape(len(blocks), 8, 4, 8)
    return scale[..., None, None] * (values * _seven_signs(blocks["signs"]))


@expands(
    StorageType.IQ3_S,
    ("d", "<f2"), ("qs", "64u1"), ("qh", "8u1"), ("signs", "32u1"), ("scales", "4u1"),
)  # fmt: skip
def iq3_s(blocks: Blocks) -> Values:
    scale = floats(blocks["d"]) * (1 + 2 * _small(neighbours(blocks["scales"], 4)))
    index = blocks["qs"] | neighbours(blocks["qh"], 1).astype(np.uint16) << 8
    values = _entries("IQ3_S", index).reshape(len(blocks), 8, 4, 8)
    return scale[..., None, None] * (values * _signs()[blocks["signs"].reshape(-1, 8, 4)])


@expands(StorageType.IQ1_S, ("d", "<f2"), ("qs", "32u1"), ("qh", "8<u2"))
def iq1_s(blocks: Blocks) -> Values:
    """`qh` of each 32 values: four times three high bits, a 3-bit scale, the offset's sign."""
    high = blocks["qh"]
    scale = floats(blocks["d"]) * (2 * _small(high >> 12 & 7) + 1)
    offset = _small(np.where(high >> 15, -OFFSET, OFFSET))[..., None, None]
    index = blocks["qs"] | neighbours(high, 3, 4) << 8
    values = _entries("IQ1", index).reshape(len(blocks), 8, 4, 8)
    return scale[..., None, None] * (values + offset)


@expands(StorageType.IQ1_M, ("qs", "32u1"), ("qh", "16u1"), ("scales", "4<u2"))
def iq1_m(blocks: Blocks) -> Values:
    """Three-bit scales of each 16 values; the top nibbles of their words make up the f16 scale.

    A nibble of `qh` for each 8 values: three high bits of the entry, the sign of its offset.
    """
    words, nibbles = blocks["scales"], neighbours(blocks["qh"], 4)
    pattern = np.bitwise_or.reduce(words >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=1)
    scale = floats(pattern.view(np.float16)) * (2 * _small(neighbours(words, 3, 4)) + 1)
    offset = _small(np.where(nibbles & 8, -OFFSET, OFFSET))[..., None]
    values = _entries("IQ1", blocks["qs"] | (nibbles & 7).astype(np.uint16) << 8) + offset
    return scale[..., None, None] * values.reshape(len(blocks), 16, 2, 8)


def _small(numbers: NDArray[Any]) -> Floats:
    """Numbers that f32 holds exactly."""
    return numbers.astype(np.float32)


def _entries(name: str, index: NDArray[Any]) -> Floats:
    """f32[..., width of an entry]."""
    return _float_codebook(name)[index]


def _seven_signs(words: NDArray[np.uint32]) -> Floats:
    """f32[n, groups, 4, 8] of the four 7-bit codes in the low bits of u32[n, groups]."""
    return _even_signs()[neighbours(words, 7, 4).reshape(*words.shape, 4)]


@cache
def _float_codebook(name: str) -> Floats:
    return codebook(name).astype(np.float32)


@cache
def _signs() -> Floats:
    """f32[256, 8]: -1 where a bit of the code is set."""
    return 1 - 2 * _small(neighbours(np.arange(256, dtype=np.uint8)[:, None], 1))


@cache
def _even_signs() -> Floats:
    """f32[128, 8]: seven signs, and an eighth that makes the number of minuses even."""
    code = np.arange(128, dtype=np.uint8)[:, None]
    odd = neighbours(code, 1).sum(axis=1, dtype=np.uint8)[:, None] & 1
    return _signs()[(code | odd << 7)[:, 0]]
