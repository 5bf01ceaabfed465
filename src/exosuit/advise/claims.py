"""What people were told that is not so, and a kind word about it where it matters.

The claims and their conditions are data (`data/claims.toml`), each checked against public sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from exosuit.advise.catalogue import cards, frozen, plain, rows
from exosuit.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim; a condition that is None or empty always holds."""

    truth: str
    models: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()
    max_card_gib: int = 0
    fits: bool | None = None
    external: bool | None = None
    unknown: tuple[str, ...] = ()
    next: str = ""


@cache
def claims() -> tuple[Claim, ...]:
    return tuple(Claim(**frozen(row)) for row in rows("claims.toml", "claim"))


def corrections(model: str, devices: Sequence[str], fits: bool, external: bool) -> list[str]:
    """What should be set right for this model on these cards, given how the plan came out."""
    memory = {card.name: card.memory_gib for card in cards()}
    named = [device.split(" #")[0] for device in devices]
    return [
        claim.truth
        for claim in claims()
        if not claim.unknown
        and named
        and (not claim.models or model in claim.models)
        and (not claim.cards or any(name in claim.cards for name in named))
        and (not claim.max_card_gib or len(named) == 1)
        and (not claim.max_card_gib or memory.get(named[0], 0) <= claim.max_card_gib)
        and claim.fits in (None, fits)
        and claim.external in (None, external)
    ]


def refuse_fiction(text: str) -> None:
    """Raise ModelNotFound, kindly, if `text` names a model that only articles know."""
    wanted = plain(text.partition(":")[0])
    for claim in claims():
        if wanted in {plain(name) for name in claim.unknown}:
            raise ModelNotFound(
                f"there is no model {text!r}", cause=claim.truth, next=claim.next, asked=text
            )
