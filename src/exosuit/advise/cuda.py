"""The rows of `exosuit list` for cards that libcuda sees.

The same card also has a row as a PCI function; this one is about another way to it.
"""

from __future__ import annotations

import logging
from typing import Any

from exosuit.driver.cuda.cards import SeenCard, seen_cards
from exosuit.driver.cuda.library import Library
from exosuit.errors import ExosuitError, UnsupportedCard

log = logging.getLogger(__name__)

KNOWN = "simulated"
"""No kernel of ours has run on a card through libcuda yet."""


def cuda_cards() -> tuple[list[SeenCard], ExosuitError | None]:
    """What libcuda sees; or why it does not work, where it is installed."""
    try:
        library = Library.load()
    except ExosuitError as error:
        log.debug("%s", error.what)
        return [], None
    try:
        return seen_cards(library), None
    except ExosuitError as error:
        return [], error


def cuda_rows(cards: list[SeenCard], problem: ExosuitError | None) -> list[dict[str, Any]]:
    """Rows of `list --json`; one that is blocked if libcuda is there and does not work."""
    if problem is not None:
        what = _row("cuda:0", "libcuda", None, None, "libcuda", "NVIDIA's driver")
        return [what | {"verdict": "blocked", "reason": problem.what, "next": problem.next}]
    rows: list[dict[str, Any]] = []
    for card in cards:
        row = _row(
            card.name, card.title, "sm_{}{}".format(*card.capability), card.memory_bytes,
            f"libcuda {card.driver}", f"PCI Express, {card.bus_id}",
        )  # fmt: skip
        try:
            row |= {"family": card.target, "known": KNOWN}
        except UnsupportedCard as error:
            row |= {"verdict": "unsupported", "reason": error.cause, "next": error.next}
        rows.append(row)
    return rows


def _row(
    device: str, name: str, family: str | None, memory: int | None, driver: str, connection: str
) -> dict[str, Any]:
    return {
        "device": device,
        "name": name,
        "vendor_id": "10de",
        "device_id": None,
        "class_code": None,
        "family": family,
        "memory_bytes": memory,
        "driver": driver,
        "connection": connection,
        "verdict": "ready",
        "reason": None,
        "next": None,
        "known": None,
    }
