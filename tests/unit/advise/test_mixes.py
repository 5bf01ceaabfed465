"""Shapes and mixes against published parameter counts and file sizes."""

from __future__ import annotations

import pytest

from exosuit.advise.mixes import DEFAULTS, LADDER, bytes_of, find_mix, stored_as
from exosuit.advise.shapes import find_model, models, tensors
from exosuit.errors import UsageError


def size_of(model: str, mix: str) -> int:
    shape = find_model(model)
    listed = list(tensors(shape))
    kinds = stored_as(shape, listed, mix)
    return sum(bytes_of(t, kind) for t, kind in zip(listed, kinds, strict=True))


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_a_shape_has_the_published_number_of_parameters(model) -> None:
    count = sum(tensor.count for tensor in tensors(model))
    assert count / 1e9 == pytest.approx(model.parameters_b, rel=2e-3)


# Exact sizes of the files of Meta-Llama-3-8B-Instruct: ddh0/UnquantizedEmbeddingTesting, sizes.txt.
# A file is its tensors and a header with the vocabulary, the same in every mix.
LLAMA_8B_FILES = {
    "BF16": 16068890912,
    "Q4_K_M": 4920733984,
    "Q4_K_S": 4692668704,
    "Q3_K_L": 4321956128,
    "Q3_K_M": 4018917664,
    "Q3_K_S": 3664498976,
    "Q2_K": 3179131168,
}


def test_sizes_are_exact_to_the_byte_but_for_the_header() -> None:
    headers = {size - size_of("llama-3.1-8b", mix) for mix, size in LLAMA_8B_FILES.items()}
    assert headers == {7_835_936}


# Llama-3.1-70B as published (ozeki.chat p_8590 quoting bartowski's table), 10^9 bytes.
LLAMA_70B_FILES = {
    "Q8_0": 74.98,
    "Q6_K": 57.89,
    "Q5_K_M": 49.95,
    "Q5_K_S": 48.66,
    "Q4_K_M": 42.52,
    "Q4_K_S": 40.35,
    "IQ4_XS": 37.90,
    "Q3_K_L": 37.14,
    "Q3_K_M": 34.27,
    "IQ3_M": 31.94,
    "Q3_K_S": 30.91,
}


@pytest.mark.parametrize("mix", LLAMA_70B_FILES)
def test_70b_has_its_published_size(mix: str) -> None:
    assert size_of("llama-3.3-70b", mix) / 1e9 == pytest.approx(LLAMA_70B_FILES[mix], abs=0.02)


@pytest.mark.parametrize(
    ("model", "mix", "gb", "within"),
    [
        ("gpt-oss-20b", "MXFP4", 12.1, 0.05),
        ("qwen2.5-7b", "Q4_K_M", 4.68, 0.01),
        ("qwen2.5-7b", "Q3_K_M", 3.81, 0.01),
        ("qwen2.5-14b", "Q4_K_M", 8.99, 0.01),  # users.md C1, as are the rest
        ("qwen3-8b", "Q4_K_M", 5.03, 0.01),
        ("qwen3-8b", "Q8_0", 8.71, 0.01),
        ("qwen3-4b", "Q4_K_M", 2.5, 0.02),
        ("llama-3.2-1b", "Q6_K", 1.02, 0.01),
        ("llama-3.2-3b", "Q6_K", 2.64, 0.01),
        ("llama-3.2-3b", "F16", 6.43, 0.01),
        ("qwen3.5-27b", "Q4_K_M", 16.7, 0.2),
        ("qwen3-coder-next-80b-a3b", "Q4_K_M", 49.6, 1.3),
    ],
)
def test_other_published_sizes(model: str, mix: str, gb: float, within: float) -> None:
    assert size_of(model, mix) / 1e9 == pytest.approx(gb, abs=within)


@pytest.mark.parametrize("model", ["llama-3.3-70b", "qwen2.5-72b", "gemma-3-27b", "qwen3-30b-a3b"])
def test_fewer_bits_take_less_room(model: str) -> None:
    """For rows that 256 divides; narrow models fall back to types that take more."""
    sizes = [size_of(model, mix) for mix in LADDER]
    assert sizes == sorted(set(sizes), reverse=True)


def test_mixes_are_found_as_people_write_them() -> None:
    assert find_mix("q4_k_m") == find_mix("Q4KM") == "Q4_K_M"
    assert set(LADDER) <= set(DEFAULTS)
    with pytest.raises(UsageError, match="Q4_K_X"):
        find_mix("Q4_K_X")
