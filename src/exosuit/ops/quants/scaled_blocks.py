"""Types whose values are small integers times a scale: the Q, ternary and 4-bit float types.

Names of fields follow the block structures in ggml-common.h of llama.cpp, whence the layouts:
`d` scale, `m` or `dmin` offset, `qs` quants, `qh` their high bits. Sums and products are rounded
in ggml's order, one operation at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exosuit.ops.quants.layouts import Blocks, Floats, Values, bits, expands, floats, neighbours
from exosuit.ops.quants.storage import StorageType

FLOAT4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""E2M1 of the OCP microscaling formats, doubled: scales are halved to match."""


def e8m0_half() -> Floats:
    """f32[256]: half of the power of two that a byte of E8M0 stands for (bias 127)."""
    return np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)


def ue4m3_half() -> Floats:
    """f32[256]: half of the unsigned E4M3 (bias 7) in the low seven bits; 0x7f counts as zero."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = np.ldexp(8 + mantissa, exponent - 10)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), normal)
    value[0x7F] = 0
    return (value / 2).astype(np.float32)


_E8M0_HALF = e8m0_half()
_UE4M3_HALF = ue4m3_half()


@expands(StorageType.Q4_0, ("d", "<f2"), ("qs", "16u1"))
def q4_0(blocks: Blocks) -> Values:
    return floats(blocks["d"]) * (_row(bits(blocks["qs"], 4)).view(np.int8) - np.int8(8))


@expands(StorageType.Q4_1, ("d", "<f2"), ("m", "<f2"), ("qs", "16u1"))
def q4_1(blocks: Blocks) -> Values:
    return floats(blocks["d"]) * _row(bits(blocks["qs"], 4)) + floats(blocks["m"])


@expands(StorageType.Q5_0, ("d", "<f2"), ("qh", "4u1"), ("qs", "16u1"))
def q5_0(blocks: Blocks) -> Values:
    return floats(blocks["d"]) * (_five_bits(blocks).view(np.int8) - np.int8(16))


@expands(StorageType.Q5_1, ("d", "<f2"), ("m", "<f2"), ("qh", "4u1"), ("qs", "16u1"))
def q5_1(blocks: Blocks) -> Values:
    return floats(blocks["d"]) * _five_bits(blocks) + floats(blocks["m"])


@expands(StorageType.Q8_0, ("d", "<f2"), ("qs", "32i1"))
@expands(StorageType.Q8_1, ("d", "<f2"), ("s", "<f2"), ("qs", "32i1"))
@expands(StorageType.Q8_K, ("d", "<f4"), ("qs", "256i1"), ("bsums", "16<i2"))
def q8(blocks: Blocks) -> Values:
    """Q8_1 and Q8_K also keep sums of the quants, for dot products; they do not matter here."""
    return floats(blocks["d"]) * blocks["qs"]


@expands(StorageType.Q1_0, ("d", "<f2"), ("qs", "16u1"))
def q1_0(blocks: Blocks) -> Values:
    """A bit for plus or minus the scale."""
    d = floats(blocks["d"])
    return np.where(neighbours(blocks["qs"], 1), d, -d)


@expands(StorageType.Q2_K, ("scales", "16u1"), ("qs", "(2,32)u1"), ("d", "<f2"), ("dmin", "<f2"))
def q2_k(blocks: Blocks) -> Values:
    scale = floats(blocks["d"]) * (blocks["scales"] & 15)
    offset = floats(blocks["dmin"]) * (blocks["scales"] >> 4)
    return scale[..., None] * _split(bits(blocks["qs"], 2), 16) - offset[..., None]


@expands(StorageType.Q3_K, ("hmask", "32u1"), ("qs", "(2,32)u1"), ("scales", "12u1"), ("d", "<f2"))
def q3_k(blocks: Blocks) -> Values:
    """The third bit of a quant is in `hmask`. Scales: 16 low nibbles, then 16 pairs of bits."""
    low, high = blocks["scales"][:, :8], blocks["scales"][:, 8:]
    scales = (_row(bits(low, 4)) | _row(bits(high, 2)) << 4).view(np.int8) - np.int8(32)
    scale = floats(blocks["d"]) * scales
    quants = _split(bits(blocks["qs"], 2), 16) | _split(bits(blocks["hmask"], 1), 16) << 2
    return scale[..., None] * (quants.view(np.int8) - np.int8(4))


@expands(StorageType.Q4_K, ("d", "<f2"), ("dmin", "<f2"), ("scales", "(3,4)u1"), ("qs", "(4,32)u1"))
def q4_k(blocks: Blocks) -> Values:
    scale, offset = _six_bit_scales(blocks)
    return scale * _split(bits(blocks["qs"], 4), 32) - offset


@expands(
    StorageType.Q5_K,
    ("d", "<f2"), ("dmin", "<f2"), ("scales", "(3,4)u1"), ("qh", "32u1"), ("qs", "(4,32)u1"),
)  # fmt: skip
def q5_k(blocks: Blocks) -> Values:
    scale, offset = _six_bit_scales(blocks)
    quants = _split(bits(blocks["qs"], 4), 32) | bits(blocks["qh"], 1) << 4
    return scale * quants - offset


@expands(StorageType.Q6_K, ("ql", "(2,64)u1"), ("qh", "(2,32)u1"), ("scales", "16i1"), ("d", "<f2"))
def q6_k(blocks: Blocks) -> Values:
    scale = floats(blocks["d"]) * blocks["scales"]
    quants = _split(bits(blocks["ql"], 4), 16) | _split(bits(blocks["qh"], 2), 16) << 4
    return scale[..., None] * (quants.view(np.int8) - np.int8(32))


@expands(StorageType.TQ1_0, ("qs32", "32u1"), ("qs16", "16u1"), ("qh", "4u1"), ("d", "<f2"))
def tq1_0(blocks: Blocks) -> Values:
    """Five ternary digits in a byte, as a fraction of 256; the last four bytes hold four each."""
    parts = [(blocks["qs32"], 5), (blocks["qs16"], 5), (blocks["qh"], 4)]
    digits = np.concatenate([_row(_ternary_digits(field, n)) for field, n in parts], axis=1)
    return floats(blocks["d"]) * (digits.view(np.int8) - np.int8(1))


@expands(StorageType.TQ2_0, ("qs", "(2,32)u1"), ("d", "<f2"))
def tq2_0(blocks: Blocks) -> Values:
    return floats(blocks["d"]) * (_row(bits(blocks["qs"], 2)).view(np.int8) - np.int8(1))


@expands(StorageType.MXFP4, ("e", "u1"), ("qs", "16u1"))
def mxfp4(blocks: Blocks) -> Values:
    return _E8M0_HALF[blocks["e"]][:, None] * FLOAT4[_row(bits(blocks["qs"], 4))]


@expands(StorageType.NVFP4, ("d", "4u1"), ("qs", "(4,8)u1"))
def nvfp4(blocks: Blocks) -> Values:
    return _UE4M3_HALF[blocks["d"]][..., None] * FLOAT4[_split(bits(blocks["qs"], 4), 16)]


def _row(quants: NDArray[Any]) -> NDArray[Any]:
    return quants.reshape(len(quants), -1)


def _split(quants: NDArray[Any], size: int) -> NDArray[Any]:
    """As sub-blocks of `size`: [n, count, size]."""
    return quants.reshape(len(quants), -1, size)


def _five_bits(blocks: Blocks) -> NDArray[Any]:
    """u8[n, 32]: low nibbles, with the fifth bits in the order of the values."""
    return _row(bits(blocks["qs"], 4)) | neighbours(blocks["qh"], 1) << 4


def _six_bit_scales(blocks: Blocks) -> tuple[Floats, Floats]:
    """Scales and offsets of the eight sub-blocks, f32[n, 8, 1].

    Twelve bytes: the low six bits of four scales, of four offsets, then nibbles of the other four
    of both, whose two highest bits are the highest bits of the first eight bytes.
    """
    scales, offsets, nibbles = (blocks["scales"][:, k] for k in range(3))
    scale = np.concatenate([scales & 63, nibbles & 15 | scales >> 6 << 4], axis=1)
    offset = np.concatenate([offsets & 63, nibbles >> 4 | offsets >> 6 << 4], axis=1)
    return (floats(blocks["d"]) * scale)[..., None], (floats(blocks["dmin"]) * offset)[..., None]


def _ternary_digits(field: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """u8[n, count, k] of 0, 1, 2: multiplied by 3, the fraction's next digit moves above it."""
    powers = np.array([1, 3, 9, 27, 81][:count], np.uint8)[:, None]
    fraction = field[:, None, :] * powers  # modulo 256: digits already read fall away
    return ((fraction.astype(np.uint16) * np.uint16(3)) >> 8).astype(np.uint8)
