"""Random models are fit to test with: llama.cpp runs them all, and their details show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.peers.agreement import compare, gaps
from tests.peers.conftest import RandomModel
from tests.peers.random_models import LARGE, SMALL, STORAGE_TYPES, Shape, write_model

from exosuit.advise.peers.llamacpp import LlamaCpp

PROMPT = np.random.default_rng(7).integers(2, 512, 320)
"""Longer than gemma3's window of 64 and than the 256 tokens where scaled rotations change."""


@pytest.mark.parametrize("storage", ["F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("name", SMALL)
def test_llama_cpp_answers_what_the_packed_numbers_say(
    name: str, storage: str, peer: LlamaCpp, random_model: RandomModel
) -> None:
    with peer.open(random_model(name, storage), threads=1) as model:
        logits = model.logits(PROMPT)
    with peer.open(random_model(name, storage, expanded=True), threads=1, exact=True) as model:
        exact = model.logits(PROMPT)
    agreement = compare(logits, exact)
    print(f"{name} {storage}: {agreement}, median gap {np.median(gaps(exact)):.2f}")
    assert np.isfinite(logits).all()
    # F16 differs by the rounding of activations and cache to half precision, the others also by
    # llama.cpp's 8-bit activations. A mixture may choose other experts, hence other logits.
    limit = 0.02 if storage == "F16" else 0.12
    assert agreement.error < (0.25 if name == "qwen3moe" else limit)
    assert np.median(gaps(exact)) > 0.5


@pytest.mark.parametrize("name", SMALL)
def test_every_storage_type_loads_and_decodes(name: str, peer: LlamaCpp, tmp_path: Path) -> None:
    shape = replace(SMALL[name], n_layers=1)
    for storage in (*STORAGE_TYPES, "Q4_K_M"):
        path = write_model(tmp_path / f"{storage}.gguf", shape, storage)
        with peer.open(path, threads=1, context=256) as model:
            steps = model.greedy(PROMPT[:16], 4)
            logits = model.last_logits()
        assert np.isfinite(logits).all(), storage
        assert all(step.gap >= 0 for step in steps), storage
        assert 3 < logits.std() < 5, f"{storage}: logits spread by {logits.std():.2f}"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama3", {"llama3_rope": False}),
        ("llama3", {"rope_base": 10000.0}),
        ("phi3-longrope", {"longrope": False}),
        ("gemma3", {"sliding_window": 80}),
        ("gemma3", {"rope_base": 10000.0}),
        ("qwen3moe", {"n_experts_used": 3}),
        ("llama", {"eps": 1e-2}),
    ],
)
def test_a_detail_overlooked_would_show(
    name: str, change: dict[str, Any], peer: LlamaCpp, random_model: RandomModel, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other.gguf", replace(SMALL[name], **change), "F16")
    with peer.open(random_model(name, "F16"), threads=1) as model:
        logits = model.logits(PROMPT)
    with peer.open(other, threads=1) as model:
        changed = model.logits(PROMPT)
    assert compare(changed, logits).error > 0.1


def test_the_far_past_reaches_the_last_token_through_gemmas_windows(
    peer: LlamaCpp, random_model: RandomModel
) -> None:
    other = PROMPT.copy()
    other[:200] = other[:200][::-1]
    with peer.open(random_model("gemma3", "F16"), threads=1) as model:
        difference = model.logits(other)[-1] - model.logits(PROMPT)[-1]
    assert np.abs(difference).max() > 1


def test_a_file_depends_on_shape_type_and_seed_alone(tmp_path: Path, peer: LlamaCpp) -> None:
    def written(seed: int, name: str) -> bytes:
        return write_model(tmp_path / name, Shape("qwen3"), "Q4_0", seed).read_bytes()

    first = written(3, "a.gguf")
    assert first == written(3, "b.gguf")
    assert first != written(4, "c.gguf")


def test_a_large_shape_is_drawn_from_a_pool(tmp_path: Path, peer: LlamaCpp) -> None:
    shape = replace(LARGE["0.35b"], n_layers=2, vocab=1024)
    reader = gguf.GGUFReader(write_model(tmp_path / "large.gguf", shape, "Q4_0"))
    by_name = {tensor.name: tensor.data for tensor in reader.tensors}
    gate, up = by_name["blk.0.ffn_gate.weight"], by_name["blk.0.ffn_up.weight"]
    assert gate.shape == up.shape == (2816, 1024 // 32 * 18)
    assert not np.array_equal(gate[0], up[0])
    assert len(np.unique(by_name["output.weight"], axis=0)) == 1024


def test_q4_k_m_mixes_as_llama_cpp_does(tmp_path: Path, peer: LlamaCpp) -> None:
    shape = replace(SMALL["llama"], n_layers=16)
    reader = gguf.GGUFReader(write_model(tmp_path / "mix.gguf", shape, "Q4_K_M"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    better = [n for n in range(16) if kinds[f"blk.{n}.ffn_down.weight"] == "Q6_K"]
    assert better == [0, 1, 4, 7, 10, 13, 14, 15]
    assert kinds["output.weight"] == "Q6_K"
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert kinds["output_norm.weight"] == "F32"


def test_the_vocabulary_tokenizes_any_bytes(peer: LlamaCpp, random_model: RandomModel) -> None:
    with peer.open(random_model("llama3", "F16"), threads=1, context=256) as model:
        assert model.n_vocab == SMALL["llama3"].vocab
        tokens = model.tokenize("the cat \u00e9\u4e2d\U0001f600")
        assert tokens
        assert all(2 <= token < model.n_vocab for token in tokens)
        assert len(model.tokenize("th")) == 1
        assert model.tokenize("<|end|>", parse_special=True) == [1]
        assert model.is_end(1)
