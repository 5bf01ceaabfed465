"""What a file says about its shape, as it is read; what it may not say is in test_model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.peers.altered import GONE, write_altered
from tests.peers.random_models import SMALL, write_model

from exosuit.errors import CorruptFile, UnsupportedModel
from exosuit.models.config import Config, Keys
from exosuit.models.gguf import GgufFile

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read(name, **changes)`: the Config of a small model, metadata without its prefix changed."""

    def make(name: str = "llama", changes: dict[str, Any] | None = None) -> Config:
        shape = replace(SMALL[name], n_layers=1, ffn=64)
        source = write_model(tmp_path / "source.gguf", shape, "F32")
        changed = {f"{shape.arch}.{key}": value for key, value in (changes or {}).items()}
        with GgufFile.open(write_altered(tmp_path / "model.gguf", source, changed)) as file:
            return Config.read(file)

    return make


def test_the_shape_is_the_files(read: Read) -> None:
    config = read("qwen3")
    assert (config.architecture, config.layers, config.width) == ("qwen3", 1, 256)
    assert (config.heads, config.kv_heads, config.head_dim) == (4, 2, 128)
    assert (config.query_width, config.key_width, config.feed_forward) == (512, 256, 64)
    assert (config.vocabulary, config.context, config.rope_base) == (512, 2048, 1e6)
    assert config.norm_epsilon == pytest.approx(1e-6)


def test_what_is_missing_has_llama_cpps_default(read: Read) -> None:
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count",
            "rope.freq_base", "attention.head_count_kv")  # fmt: skip
    config = read("llama", dict.fromkeys(keys, GONE))
    assert (config.head_dim, config.rope_dims, config.rope_base) == (64, 64, 10000.0)
    assert config.kv_heads == config.heads == 4
    assert config.original_context == config.context == 2048


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("linear", 1.0, 1.0)),
        ({"rope.scaling.factor": 4.0}, ("linear", 4.0, 1.0)),
        ({"rope.scale_linear": 2.0}, ("linear", 2.0, 1.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, ("none", 1.0, 1.0)),
        ({"rope.scaling.type": "longrope", "rope.scaling.attn_factor": 1.5}, ("none", 1.0, 1.5)),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0}, ("yarn", 8.0, 1.0)),
    ],
)
def test_the_rotations_scaling(
    changes: dict[str, Any], expected: tuple[str, float, float], read: Read
) -> None:
    rope = read("llama", changes).rope()
    assert (rope.scaling, rope.factor, rope.magnitude) == expected


def test_yarns_words(read: Read) -> None:
    words = {"type": "yarn", "original_context_length": 256, "yarn_beta_fast": 16.0}
    rope = read("llama", {f"rope.scaling.{key}": value for key, value in words.items()}).rope()
    assert (rope.original_context, rope.beta_fast, rope.beta_slow) == (256, 16.0, 1.0)


@pytest.mark.parametrize("value", [7, 7.0, np.array([7, 7, 7], np.int32)])
def test_whole_numbers(value: Any) -> None:
    assert Keys("a.gguf", "llama", {"llama.n": value}).whole("n", None, 1, 7) == 7


@pytest.mark.parametrize("value", [8, 0, -1, 6.5, "7", True, float("nan"), float("inf"), ["7"]])
def test_what_is_no_whole_number_within_its_bounds(value: Any) -> None:
    with pytest.raises(CorruptFile) as caught:
        Keys("a.gguf", "llama", {"llama.n": value}).whole("n", None, 1, 7)
    assert caught.value.fields["key"] == "n"
    assert "from 1 to 7" in caught.value.cause


@pytest.mark.parametrize("value", ["0.5", True, float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_number_within_its_bounds(value: Any) -> None:
    with pytest.raises(CorruptFile, match=r"llama\.x"):
        Keys("a.gguf", "llama", {"llama.x": value}).real("x", None, 0.0, 1.0)


def test_defaults_are_for_missing_keys_only() -> None:
    keys = Keys("a.gguf", "llama", {"other.n": 3})
    assert keys.whole("n", 5, 1, 7) == 5
    assert keys.real("x", 0.5, 0.0, 1.0) == 0.5
    assert keys.word("w", "none") == "none"
    with pytest.raises(CorruptFile, match="is missing"):
        keys.whole("n", None, 1, 7)


def test_layers_that_differ_are_not_supported() -> None:
    keys = Keys("a.gguf", "llama", {"llama.n": np.array([7, 6])})
    with pytest.raises(UnsupportedModel, match="a different n to each layer"):
        keys.whole("n", None, 1, 7)
