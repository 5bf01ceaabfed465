"""Batches of inputs to vectors: any number, any mix of lengths, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.peers.bert_models import TINY_VOCABULARY, BertShape, write_bert
from tests.peers.random_models import SMALL, write_model

from exosuit.driver.cpu import CpuDevice
from exosuit.engine.embed import EmbeddingModel, is_embedding_model, open_embedding_model
from exosuit.engine.open import open_model
from exosuit.errors import ContextFull, CorruptFile, ModelError, RequestError, UnsupportedModel
from exosuit.kernel import Target
from exosuit.models.gguf import GgufFile

SHAPE = BertShape(layers=1, width=32, heads=2, ffn=48, context=40)


@pytest.fixture(scope="module")
def device() -> Iterator[CpuDevice]:
    device = CpuDevice(Target.host().name, 2)
    yield device
    device.close()


@pytest.fixture(scope="module")
def model(device: CpuDevice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingModel]:
    path = write_bert(tmp_path_factory.mktemp("bert") / "tiny.gguf", SHAPE)
    model = open_embedding_model(path, device, None)
    yield model
    model.close()


def test_a_text_has_its_vector_whatever_stands_beside_it(model: EmbeddingModel) -> None:
    generator = np.random.default_rng(3)
    inputs = [
        [2, *generator.integers(5, len(TINY_VOCABULARY), generator.integers(0, 39)).tolist()]
        for _ in range(150)  # more than a step takes, by number and by tokens
    ]
    together = model.embed(inputs)
    alone = np.concatenate([model.embed([one]) for one in inputs])
    assert together.shape == (150, 32)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.unique(together.round(4), axis=0).shape[0] == len({tuple(i) for i in inputs})


def test_nothing_gives_nothing(model: EmbeddingModel) -> None:
    assert model.embed([]).shape == (0, 32)


def test_the_longest_text(model: EmbeddingModel) -> None:
    assert np.isfinite(model.embed([[7] * 40])).all()
    with pytest.raises(ContextFull) as caught:
        model.embed([[2, 3], [7] * 41])
    assert caught.value.fields["input"] == 1


@pytest.mark.parametrize("tokens", [[], [len(TINY_VOCABULARY)], [-1]])
def test_ids_that_are_none(model: EmbeddingModel, tokens: list[int]) -> None:
    with pytest.raises(RequestError):
        model.embed([[2, 3], tokens])


def test_which_files_it_opens(device: CpuDevice, model: EmbeddingModel, tmp_path: Path) -> None:
    assert is_embedding_model(model.file)
    path = write_model(tmp_path / "llama.gguf", replace(SMALL["llama"], n_layers=1), "F32")
    with GgufFile.open(path) as file:
        assert not is_embedding_model(file)
    with pytest.raises(UnsupportedModel, match="architecture 'llama'"):
        open_embedding_model(path, device, None)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"blk.0.attn_q.weight": None}, CorruptFile),
        ({"blk.0.ffn_up.bias": None}, CorruptFile),
        ({"token_embd_norm.bias": None}, CorruptFile),
        ({"position_embd.weight": np.zeros((39, 32), np.float32)}, CorruptFile),
        ({"position_embd.weight": np.zeros(32, np.float32)}, CorruptFile),
        ({"token_types.weight": np.zeros((2, 31), np.float32)}, CorruptFile),
        ({"blk.0.layer_output_norm.weight": np.zeros(31, np.float32)}, CorruptFile),
        ({"cls.weight": np.zeros((32, 32), np.float32)}, UnsupportedModel),  # a reranker's head
    ],
)
def test_files_that_are_not_what_they_say(
    changed: dict[str, np.ndarray | None], kind: type[ModelError], device: CpuDevice, tmp_path: Path
) -> None:
    path = write_bert(tmp_path / "bad.gguf", SHAPE, changed=changed)
    with pytest.raises(kind):
        open_embedding_model(path, device, None)


def test_who_wants_text_of_it_is_told(device: CpuDevice, tmp_path: Path) -> None:
    path = write_bert(tmp_path / "bert.gguf", SHAPE)
    with pytest.raises(UnsupportedModel, match="makes embeddings") as caught:
        open_model(path, device, None)
    assert "/v1/embeddings" in caught.value.next


def test_a_model_that_ranks_is_refused(device: CpuDevice, tmp_path: Path) -> None:
    path = write_bert(tmp_path / "rank.gguf", BertShape(pooling=4))
    with pytest.raises(UnsupportedModel, match="ranks"):
        open_embedding_model(path, device, None)


def test_a_model_without_types_opens(device: CpuDevice, tmp_path: Path) -> None:
    path = write_bert(tmp_path / "plain.gguf", SHAPE, changed={"token_types.weight": None})
    model = open_embedding_model(path, device, None)
    assert np.isfinite(model.embed([[2, 9, 3]])).all()
    model.close()
