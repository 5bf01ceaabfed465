"""Every storage type against ggml's own expansion of real weights, and against PyPI gguf."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from exosuit.errors import ShapeMismatch
from exosuit.models.gguf import GgufFile
from exosuit.ops.quants import StorageType, dequantise, quantise
from exosuit.ops.quants.reduce import QUANTISERS

# fmt: off
VECTORS = [
    "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs",
    "tq1_0", "tq2_0", "mxfp4", "nvfp4", "q1_0",
]
# fmt: on

MADE_WITHOUT_SEARCH = ["f16", "bf16", "q4_1", "q8_0", "mxfp4"]
"""Vectors whose scales ggml did not fit to an importance matrix."""


@pytest.fixture(scope="module")
def vectors(shared: Path) -> Iterator[GgufFile]:
    with GgufFile.open(shared / "models/quant-vectors.gguf") as file:
        yield file


def random_rows(type: StorageType, rows: int, blocks: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(type.value)
    return generator.integers(0, 256, (rows, blocks * type.block_bytes), np.uint8)


def test_the_26_types_are_all_in_the_vectors(vectors: GgufFile) -> None:
    stored = {name for name in vectors.tensors if "." not in name} - {"src", "x"}
    assert stored == set(VECTORS)
    assert len(VECTORS) == 26


@pytest.mark.parametrize("name", VECTORS)
def test_expands_to_the_bits_of_ggml(vectors: GgufFile, name: str) -> None:
    tensor = vectors.tensors[name]
    assert tensor.type.label == name.upper()
    expected = vectors.array(f"{name}.dequant")
    actual = dequantise(tensor.type, vectors.raw(name))
    assert actual.shape == expected.shape == (4, 1536)
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", VECTORS)
def test_product_with_a_vector(vectors: GgufFile, name: str) -> None:
    expected = vectors.array(f"{name}.y").ravel()
    actual = vectors.array(name).astype(np.float64) @ vectors.array("x").ravel()
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)  # .y is stored as f32


@pytest.mark.parametrize("name", [n for n in VECTORS if n != "q1_0"])
def test_any_bytes_expand_as_in_gguf(name: str) -> None:
    """Random bytes reach every code, scale and codebook entry, infinities and NaN included."""
    type = StorageType[name.upper()]
    raw = random_rows(type, 3, 1 << 11)
    actual = dequantise(type, raw)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, gguf.GGMLQuantizationType(type.value))
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def test_one_bit_type_is_plus_or_minus_the_scale() -> None:
    raw = np.zeros((1, 18), np.uint8)
    raw[0, :2] = np.array([0.5], np.float16).view(np.uint8)
    raw[0, 2:4] = 0b0000_0101, 0b1000_0000
    values = dequantise(StorageType.Q1_0, raw)[0]
    assert [k for k in range(128) if values[k] == 0.5] == [0, 2, 15]
    assert (np.abs(values) == 0.5).all()


@pytest.mark.parametrize("kind", ["I8", "I16", "I32", "I64", "F32", "F64"])
def test_plain_numbers(kind: str) -> None:
    type = StorageType[kind]
    dtype = np.dtype(f"<{kind[0].lower()}{type.block_bytes}")
    numbers = np.array([[0, 1, -1, 100], [-128, 127, 7, 3]], dtype)
    values = dequantise(type, numbers.view(np.uint8))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, numbers.astype(np.float32))


def test_types_with_sums_ignore_them() -> None:
    quants = np.arange(-128, 128, dtype=np.int8)
    scale = np.array([0.25], np.float32)
    wide = np.concatenate([scale.view(np.uint8), quants.view(np.uint8), np.full(32, 9, np.uint8)])
    expected = quants * np.float32(0.25)
    np.testing.assert_array_equal(dequantise(StorageType.Q8_K, wide), expected)
    half = scale.astype(np.float16).view(np.uint8)
    narrow = np.concatenate([half, np.full(2, 9, np.uint8), quants[:32].view(np.uint8)])
    np.testing.assert_array_equal(dequantise(StorageType.Q8_1, narrow), expected[:32])


@pytest.mark.parametrize("type", StorageType, ids=lambda type: type.label)
def test_every_type_expands_and_agrees_on_its_size_with_gguf(type: StorageType) -> None:
    assert dequantise(type, random_rows(type, 2, 3)).shape == (2, 3 * type.block)
    listed = gguf.GGML_QUANT_SIZES.get(gguf.GGMLQuantizationType(type.value))
    if type is StorageType.Q8_1:  # ggml's block has two halves; gguf still counts two floats
        assert listed == (32, 40)
    else:
        assert listed == (type.block, type.block_bytes)


def test_leading_dimensions_strides_and_no_rows_at_all() -> None:
    raw = random_rows(StorageType.Q4_K, 6, 2)
    whole = dequantise(StorageType.Q4_K, raw)
    folded = dequantise(StorageType.Q4_K, raw.reshape(2, 3, -1))
    np.testing.assert_array_equal(folded, whole.reshape(2, 3, -1))
    np.testing.assert_array_equal(dequantise(StorageType.Q4_K, raw[::2]), whole[::2])
    assert dequantise(StorageType.Q4_K, raw[:0]).shape == (0, 512)


def test_part_of_a_block_is_refused() -> None:
    with pytest.raises(ShapeMismatch) as caught:
        dequantise(StorageType.Q4_0, np.zeros((2, 19), np.uint8))
    assert caught.value.fields == {"type": "Q4_0", "row_bytes": 19}


@pytest.mark.parametrize("name", MADE_WITHOUT_SEARCH)
def test_quantises_to_the_bytes_of_ggml(vectors: GgufFile, name: str) -> None:
    packed = quantise(StorageType[name.upper()], vectors.array("src"))
    np.testing.assert_array_equal(packed, vectors.raw(name))


@pytest.mark.parametrize(
    "type", [t for t in QUANTISERS if t is not StorageType.IQ4_NL], ids=lambda t: t.label
)
def test_quantises_to_the_bytes_of_gguf(type: StorageType) -> None:
    values = normal_values(0.02)
    expected = gguf.quantize(values, gguf.GGMLQuantizationType(type.value))
    np.testing.assert_array_equal(quantise(type, values), expected.view(np.uint8))


# half of the widest step of a type, relative to the largest magnitude in a block
HALF_STEP = {
    "F32": 0, "F16": 0, "BF16": 2**-9, "Q8_0": 0.5 / 127, "Q5_1": 1 / 31, "Q5_0": 1 / 16,
    "Q4_1": 1 / 15, "Q4_0": 1 / 8, "IQ4_NL": 14 / 127, "MXFP4": 1 / 4,
}  # fmt: skip


@pytest.mark.parametrize("name", HALF_STEP)
def test_round_trip(name: str) -> None:
    type = StorageType[name]
    values = normal_values(1.0)
    back = dequantise(type, quantise(type, values))
    largest = np.abs(values).reshape(-1, type.block).max(axis=1).repeat(type.block)
    rounding = 0 if name == "F32" else 4 * 2**-11  # scale and offset are f16
    assert (np.abs(back - values).ravel() <= (HALF_STEP[name] + rounding) * largest).all()


def normal_values(deviation: float) -> NDArray[np.float32]:
    """f32[5, 1024], the first row of zeros."""
    values = np.random.default_rng(1).normal(0, deviation, (5, 1024)).astype(np.float32)
    values[0] = 0
    return values


def test_every_quantiser_is_in_the_round_trip() -> None:
    assert {type.label for type in QUANTISERS} == set(HALF_STEP)


def test_quantise_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ShapeMismatch, match="does not write IQ2_XS"):
        quantise(StorageType.IQ2_XS, np.zeros((1, 256), np.float32))
    with pytest.raises(ShapeMismatch, match="33 values"):
        quantise(StorageType.Q8_0, np.zeros((1, 33), np.float32))
