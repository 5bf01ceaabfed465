"""A sample of the fault schedules; `benchmarks/faults.py` runs a thousand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.softcard.schedules import (
    FAMILIES,
    Family,
    Schedule,
    Sessions,
    expected_tokens,
)

from exosuit.softcard.faults import NVIDIA, FaultKind

pytestmark = pytest.mark.slow


SHARES = {"boot": 0.03, "load": 0.5, "answer": 0.97}
SEEDS = {"amd": 12, "ga102": 4, "ad102": 4, "gb202": 4}


def _kinds() -> list[Any]:
    """All kinds at all times on AMD's cards; on NVIDIA's, which are many, at times in turn."""
    times = tuple(SHARES)
    chosen = [("amd", kind, when) for kind in FAMILIES["amd"].kinds for when in times]
    for place, kind in enumerate(FAMILIES["gb202"].kinds):
        chosen.append(("gb202", kind, times[place % 3]))
    chosen += [("ga102", kind, "boot") for kind in NVIDIA]
    return [
        pytest.param(name, kind, SHARES[when], id=f"{name}-{kind.value}-{when}")
        for name, kind, when in chosen
    ]


@dataclass(frozen=True)
class Prepared:
    """One family's sessions, and how far one of them reaches."""

    family: Family
    sessions: Sessions
    reach: int

    def check(self, schedule: Schedule) -> None:
        outcome = self.sessions.run(schedule)
        assert not outcome.wrong, f"{outcome.schedule}: {outcome.first}, then {outcome.wrong}"


Prepare = Callable[[str], Prepared]


@pytest.fixture(scope="module")
def prepared(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """Each family is prepared once; translated programs are kept for all of NVIDIA's."""
    model, folder = shared / "models/stories260k/stories260K-f32.gguf", tmp_path_factory.mktemp("c")
    expected = expected_tokens(model, folder)

    @cache
    def prepare(name: str) -> Prepared:
        sessions = Sessions(FAMILIES[name], model, folder, expected)
        return Prepared(FAMILIES[name], sessions, sessions.reach())

    return prepare


@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name, count in SEEDS.items() for seed in range(count)]
)
def test_seeded(prepared: Prepare, name: str, seed: int):
    ready = prepared(name)
    ready.check(Schedule.drawn(seed, ready.reach, ready.family))


@pytest.mark.parametrize(("name", "kind", "share"), _kinds())
def test_each_kind(prepared: Prepare, name: str, kind: FaultKind, share: float):
    ready = prepared(name)
    place = int(share * ready.reach)
    ready.check(Schedule(0, ready.family.chips[0], 0, ((place, kind),), None))
