"""The peer, and random models that are written once per session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.peers.random_models import SMALL, write_model

from exosuit.advise.peers.llamacpp import LlamaCpp

RandomModel = Callable[..., Path]


@pytest.fixture(scope="session")
def peer() -> LlamaCpp:
    found = LlamaCpp.find()
    if found is None:
        pytest.skip("llama.cpp is not installed (pip install xllamacpp, or the `test` extra)")
    return found


@pytest.fixture(scope="session")
def random_model(peer: LlamaCpp, tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    """`random_model(name, storage, expanded=False)`: the path of one of the SMALL models."""
    folder = tmp_path_factory.mktemp("random-models")

    @cache
    def make(name: str, storage: str, expanded: bool = False) -> Path:
        suffix = "-expanded" if expanded else ""
        path = folder / f"{name}-{storage}{suffix}.gguf"
        return write_model(path, SMALL[name], storage, expanded=expanded)

    return make
