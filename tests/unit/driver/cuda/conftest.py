"""Fake cards, and what runs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.softcard.libcuda import Libcuda

Make = Callable[..., Libcuda]


@pytest.fixture(scope="session")
def translated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translated")


@pytest.fixture
def libcuda(translated: Path) -> Iterator[Make]:
    """`libcuda(**options)` makes one; at the end none of them was misused."""
    made: list[Libcuda] = []

    def make(**options: object) -> Libcuda:
        made.append(Libcuda(translated, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for fake in made:
        fake.close()
        assert not fake.misuses
