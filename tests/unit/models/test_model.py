"""Model files that are not what they say end in one error of three lines, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.peers.altered import GONE, write_altered
from tests.peers.ours import open_ours
from tests.peers.random_models import SMALL, Shape, tensors, write_model

from exosuit.errors import CorruptFile, ModelError, UnsupportedModel

SHAPES: dict[str, Shape] = {
    name: replace(SMALL[name], n_layers=1, width=64, ffn=96, head_dim=16, vocab=288)
    for name in ("llama", "llama3", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3-longrope")
}
Good = Callable[[str], Path]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """The path of a model that opens."""
    folder, known = tmp_path_factory.mktemp("good"), dict[str, Path]()

    def make(name: str) -> Path:
        if name not in known:
            known[name] = write_model(folder / f"{name}.gguf", SHAPES[name], "F32")
        return known[name]

    return make


def refusal(path: Path) -> ModelError:
    """The error that opening ends in, with its three lines."""
    with pytest.raises(ModelError) as caught, open_ours(path, context=64):
        pass
    error = caught.value
    lines = str(error).splitlines()
    assert [line[:6] for line in lines] == ["error:", "cause:", "next: "], lines
    assert all(len(line) > 12 for line in lines), lines
    return error


@pytest.mark.parametrize("name", SHAPES)
def test_good_models_open(name: str, good: Good) -> None:
    with open_ours(good(name), context=64) as ours:
        assert np.isfinite(ours.score([5, 6])).all()


@pytest.mark.parametrize("name", SHAPES)
def test_every_missing_tensor_is_named(name: str, good: Good, tmp_path: Path) -> None:
    for tensor in tensors(SHAPES[name]):
        if tensor.name in ("output.weight", "rope_freqs.weight"):
            continue  # there are models without
        path = write_altered(tmp_path / "bad.gguf", good(name), tensors={tensor.name: GONE})
        error = refusal(path)
        if not tensor.name.endswith("attn_q.bias"):  # then the other two are too many
            assert isinstance(error, CorruptFile), tensor.name


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_of_another_shape_is_refused(name: str, good: Good, tmp_path: Path) -> None:
    for tensor in tensors(SHAPES[name]):
        *leading, columns = tensor.shape
        shapes = [(*leading, columns + 32), (*leading, columns // 2), (2, *tensor.shape)]
        if leading:
            rows = leading[-1]
            shapes += [(*leading[:-1], rows + 1, columns), (*leading[:-1], rows - 8, columns)]
            shapes += [(*leading[:-1], 1, columns), (rows * columns,)]
        for shape in shapes:
            changed = {tensor.name: np.zeros(shape, np.float32)}
            path = write_altered(tmp_path / "bad.gguf", good(name), tensors=changed)
            try:
                error = refusal(path)
            except BaseException as problem:
                problem.add_note(f"{tensor.name} with the shape {shape}, not {tensor.shape}")
                raise
            assert isinstance(error, CorruptFile | UnsupportedModel)


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("llama", {"general.architecture": "mamba"}),
        ("llama", {"general.architecture": GONE}),
        ("llama", {"general.architecture": 3}),
        ("llama", {"llama.block_count": GONE}),
        ("llama", {"llama.block_count": 0}),
        ("llama", {"llama.block_count": 2}),
        ("llama", {"llama.block_count": 1 << 31}),
        ("llama", {"llama.block_count": "many"}),
        ("llama", {"llama.block_count": True}),
        ("llama", {"llama.block_count": 0.5}),
        ("llama", {"llama.block_count": float("nan")}),
        ("llama", {"llama.embedding_length": 128}),
        ("llama", {"llama.embedding_length": 1 << 40}),
        ("llama", {"llama.embedding_length": -256}),
        ("llama", {"llama.attention.head_count": 0}),
        ("llama", {"llama.attention.head_count": 3}),
        ("llama", {"llama.attention.head_count": 1 << 30}),
        ("llama", {"llama.attention.head_count": 8}),
        ("llama", {"llama.attention.head_count": [4, 2]}),
        ("llama", {"llama.attention.head_count_kv": 4}),
        ("llama", {"llama.attention.head_count_kv": 0}),
        ("llama", {"llama.attention.key_length": 60}),
        ("llama", {"llama.attention.key_length": 512}),
        ("llama", {"llama.attention.value_length": 32}),
        ("llama", {"llama.rope.dimension_count": 15}),
        ("llama", {"llama.rope.dimension_count": 0}),
        ("llama", {"llama.rope.dimension_count": 128}),
        ("llama", {"llama.rope.freq_base": 0.0}),
        ("llama", {"llama.rope.freq_base": float("inf")}),
        ("llama", {"llama.rope.freq_base": "high"}),
        ("llama", {"llama.rope.scaling.type": "spiral"}),
        ("llama", {"llama.rope.scaling.type": 7}),
        ("llama", {"llama.rope.scaling.factor": 0.0}),
        ("llama", {"llama.rope.scaling.factor": float("nan")}),
        (
            "llama",
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 0},
        ),
        ("llama", {"llama.feed_forward_length": 256}),
        ("llama", {"llama.context_length": 0}),
        ("llama", {"llama.context_length": 1 << 40}),
        ("llama", {"llama.attention.layer_norm_rms_epsilon": float("nan")}),
        ("llama", {"llama.attention.layer_norm_rms_epsilon": -1.0}),
        ("llama", {"tokenizer.ggml.tokens": ["a", "b"]}),
        ("qwen3", {"general.architecture": "qwen2"}),
        ("qwen3moe", {"qwen3moe.expert_count": GONE}),
        ("qwen3moe", {"qwen3moe.expert_count": 4}),
        ("qwen3moe", {"qwen3moe.expert_used_count": 0}),
        ("qwen3moe", {"qwen3moe.expert_used_count": 9}),
        ("qwen3moe", {"qwen3moe.expert_feed_forward_length": 8}),
        ("gemma3", {"gemma3.attention.sliding_window": -1}),
        ("gemma3", {"gemma3.attention.sliding_window": "wide"}),
        ("gemma3", {"gemma3.final_logit_softcapping": float("nan")}),
        ("phi3-longrope", {"phi3.rope.scaling.original_context_length": 0}),
        ("phi3-longrope", {"phi3.rope.scaling.attn_factor": -1.0}),
    ],
)
def test_impossible_metadata_is_refused(
    name: str, metadata: dict[str, object], good: Good, tmp_path: Path
) -> None:
    source = good(name)
    if "general.architecture" in metadata and name != "llama":  # keys move with the name
        old, new = name, metadata["general.architecture"]
        heads = ("head_count", "head_count_kv", "key_length", "value_length")
        keys = ["block_count", "embedding_length", "feed_forward_length"]
        keys += [f"attention.{key}" for key in heads]
        fields = gguf.GGUFReader(source).fields
        metadata = metadata | {f"{new}.{k}": fields[f"{old}.{k}"].contents() for k in keys}
    refusal(write_altered(tmp_path / "bad.gguf", source, metadata))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("llama", {"blk.0.attn_output.weight": np.zeros((64, 64), np.int32)}),
        ("llama", {"blk.0.ffn_up.weight": np.zeros((96, 64), np.float64)}),
        ("llama", {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}),
        ("llama", {"blk.0.ffn_gate_inp.weight": np.ones((8, 64), np.float32)}),
        ("llama", {"rope_freqs.weight": np.ones(16, np.float32)}),
        ("llama", {"rope_freqs.weight": np.zeros(8, np.float32)}),
        ("llama", {"rope_freqs.weight": np.full(8, np.nan, np.float32)}),
        ("phi3-longrope", {"rope_factors_short.weight": np.full(8, -1, np.float32)}),
        ("qwen2", {"blk.0.attn_q.bias": np.ones(32, np.float32)}),
    ],
)
def test_tensors_that_no_kernel_reads_are_refused(
    name: str, changed: dict[str, object], good: Good, tmp_path: Path
) -> None:
    refusal(write_altered(tmp_path / "bad.gguf", good(name), tensors=changed))


def test_a_mixture_with_experts_of_odd_rows_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "odd.gguf", replace(SHAPES["qwen3moe"], ffn=36), "F32")
    assert "rows in multiples of 8" in refusal(path).cause


def test_what_differs_from_file_to_file_is_not_refused(good: Good, tmp_path: Path) -> None:
    """Lists with one entry for each layer, norms in half precision, integers as floats."""
    metadata = {"llama.attention.head_count_kv": [2], "llama.feed_forward_length": [96, 96]}
    changed = {"blk.0.attn_norm.weight": np.ones(64, np.float16)}
    with open_ours(write_altered(tmp_path / "a.gguf", good("llama"), metadata, changed)) as ours:
        assert np.isfinite(ours.score([5, 6])).all()


def test_files_cut_short_anywhere_are_refused(good: Good, tmp_path: Path) -> None:
    whole = good("llama").read_bytes()
    cut = tmp_path / "cut.gguf"
    data = gguf.GGUFReader(good("llama")).data_offset
    inside = [t.data_offset + t.n_bytes // 2 for t in gguf.GGUFReader(good("llama")).tensors]
    for size in (0, 3, 4, 100, data // 2, data - 1, data, *inside, len(whole) - 33):
        cut.write_bytes(whole[:size])
        refusal(cut)
