"""A sample of the fault schedules; `benchmarks/faults.py` runs a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.softcard.schedules import (
    CARD_KINDS,
    Schedule,
    Sessions,
    expected_tokens,
)

from exosuit.softcard.faults import FaultKind

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sessions(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    model, cache = shared / "models/stories260k/stories260K-f32.gguf", tmp_path_factory.mktemp("c")
    return Sessions(model, cache, expected_tokens(model, cache))


@pytest.fixture(scope="module")
def reach(sessions: Sessions) -> int:
    return sessions.reach()


@pytest.mark.parametrize("seed", range(12))
def test_seeded(sessions: Sessions, reach: int, seed: int):
    outcome = sessions.run(Schedule.drawn(seed, reach))
    assert not outcome.wrong, f"{outcome.schedule}: {outcome.first}, then {outcome.wrong}"


@pytest.mark.parametrize("kind", CARD_KINDS, ids=lambda kind: kind.value)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.97], ids=["boot", "load", "answer"])
def test_each_kind(sessions: Sessions, reach: int, kind: FaultKind, share: float):
    schedule = Schedule(0, "gfx1100", 0, ((int(share * reach), kind),), None)
    outcome = sessions.run(schedule)
    assert not outcome.wrong, f"{outcome.schedule}: {outcome.first}, then {outcome.wrong}"
