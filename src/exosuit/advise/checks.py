"""One check of one layer, and the order in which layers are looked at.

A diagnosis is a list of checks from the cable up. The first that failed is what is broken; what
lies above it is skipped, because it cannot be judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    found   what the machine says
    cause   why it is so, probably; empty when it is as it should be
    next    what to do or type; empty likewise
    why     what this layer is for, for --explain
    """

    layer: str
    name: str
    status: Status
    found: str
    cause: str = ""
    next: str = ""
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """The entry of `doctor --json`: everything but the explanation."""
        entry = asdict(self)
        del entry["why"]
        return entry


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in order of the layers."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return self.broken is None

    @property
    def broken(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if check.status == "failed"), None)

    @property
    def warnings(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == "warning")

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "checks": [check.as_json() for check in self.checks]}


class Ladder:
    """Collects checks of one machine; once a rung is broken, the rungs above are skipped.

    `layers` is the order from the bottom up, each with what it is for.
    """

    def __init__(self, layers: dict[str, str]) -> None:
        self._layers = layers
        self._checks: list[Check] = []

    @property
    def broken(self) -> bool:
        return any(check.status == "failed" for check in self._checks)

    def ok(self, layer: str, name: str, found: str) -> None:
        self._add(Check(layer, name, "ok", found))

    def warn(self, layer: str, name: str, found: str, cause: str, next: str) -> None:
        self._add(Check(layer, name, "warning", found, cause, next))

    def fail(self, layer: str, name: str, found: str, cause: str, next: str) -> None:
        self._add(Check(layer, name, "failed", found, cause, next))

    def skip(self, layer: str, name: str, found: str) -> None:
        self._add(Check(layer, name, "skipped", found))

    def done(self) -> Diagnosis:
        """The diagnosis; layers that were not reached appear as skipped."""
        order = list(self._layers)
        broken = next((c for c in self._checks if c.status == "failed"), None)
        reached = {check.layer for check in self._checks}
        for layer in order:
            if layer not in reached:
                why = f"not looked at: {broken.layer} comes first" if broken else "nothing to ask"
                self._add(Check(layer, layer, "skipped", why))
        self._checks.sort(key=lambda check: order.index(check.layer))
        return Diagnosis(tuple(self._checks))

    def _add(self, check: Check) -> None:
        why = self._layers[check.layer]
        entry = Check(
            check.layer, check.name, check.status, check.found, check.cause, check.next, why
        )
        self._checks.append(entry)
