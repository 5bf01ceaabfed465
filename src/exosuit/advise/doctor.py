"""What is wrong, which layer is the first that is broken, and what to do next."""

from __future__ import annotations

from typing import Any

from exosuit.advise.checks import Diagnosis
from exosuit.advise.checks_linux import diagnose_linux
from exosuit.advise.checks_macos import diagnose_macos
from exosuit.advise.situation import Situation


def diagnose(situation: Situation) -> Diagnosis:
    """All checks for the situation's system. Pure: the same situation gives the same answer."""
    if situation.system == "macos":
        return diagnose_macos(situation)
    return diagnose_linux(situation)


def report(situation: Situation, version: str) -> dict[str, Any]:
    """The bundle of `doctor --report`: the diagnosis and the redacted answers behind it."""
    plain = situation.redacted()
    return {
        "exosuit": version,
        "diagnosis": diagnose(plain).as_json(),
        "situation": plain.as_json(),
    }
