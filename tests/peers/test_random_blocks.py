"""Blocks that are drawn are what they should be, as another reader unpacks them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Storage
from tests.peers.random_blocks import DRAWN, random_blocks
from tests.peers.random_models import SMALL, unpack, write_model


@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.name)
def test_mean_and_deviation(kind: Storage) -> None:
    drawn = random_blocks(np.random.default_rng(4), kind, 64, 1024, 0.02)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert len(drawn) == 64 * 1024 // block * size
    values = unpack(drawn, kind, 1024).astype(np.float64)
    assert values.shape == (64, 1024)
    assert abs(values.mean()) < 0.0008  # quants from -32 to 31 have a mean of their own
    assert values.std() == pytest.approx(0.02, rel=0.03)
    parts = values.reshape(-1, 32).std(1)
    assert parts.std() > 0.05 * parts.mean()  # scales differ, or a wrong one would not show
    other = random_blocks(np.random.default_rng(5), kind, 64, 1024, 0.02)
    assert drawn != other


def test_a_type_that_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="IQ4_XS"):
        random_blocks(np.random.default_rng(4), Storage.IQ4_XS, 1, 256, 1.0)


def test_a_model_needs_nobody_to_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.peers import random_models

    packed = random_models.pack

    def plain_only(values: np.ndarray, kind: Storage) -> bytes:
        assert kind is Storage.F32
        return packed(values, kind)

    monkeypatch.setattr(random_models, "pack", plain_only)
    path = write_model(tmp_path / "drawn.gguf", SMALL["qwen3moe"], "Q4_K_M", drawn=True)
    again = write_model(tmp_path / "again.gguf", SMALL["qwen3moe"], "Q4_K_M", drawn=True)
    assert path.read_bytes() == again.read_bytes()
