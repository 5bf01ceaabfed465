"""Cards, Macs, links and boxes that one can buy: the data files as typed rows, and finding one.

The files lie in `data/`, each with its sources in its first lines. Sizes are as sold (GiB),
bandwidths in 10^9 bytes per second, arithmetic in 10^12 operations per second without sparsity.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol, TypeVar, cast

from exosuit.errors import UsageError
from exosuit.units import GiB


class Named(Protocol):
    """A row that can be asked for by name."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


Row = TypeVar("Row", bound=Named)


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card as its vendor describes it; see `data/cards.toml` for the units."""

    name: str
    architecture: str
    memory_gib: int
    gb_s: float
    f16_tflops: float
    int8_tops: float
    power_w: int
    price_usd: tuple[int, ...]
    source: str
    pci: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int:
        return self.memory_gib * GiB

    @property
    def drivable(self) -> bool:
        """Whether exosuit aims to drive this architecture at all."""
        return self.architecture in {"RDNA3", "RDNA4", "Ampere", "Ada", "Hopper", "Blackwell"}

    @property
    def price(self) -> str:
        """`$999`, `$699 to $999`, or nothing where it is not sold to people."""
        if not self.price_usd:
            return ""
        low, high = self.price_usd[0], self.price_usd[-1]
        return f"${low:,}" if low == high else f"${low:,} to ${high:,}"


@dataclass(frozen=True, slots=True)
class Mac:
    """An Apple chip as the host of a card."""

    name: str
    gb_s: float
    memory_gib: tuple[int, ...]
    link: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A way to a card: what it carries in practice (`gb_s`) and on the wire (`wire_gb_s`)."""

    name: str
    gb_s: float
    wire_gb_s: float
    external: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """An enclosure with its own power supply."""

    name: str
    power_w: int
    link: str
    price_usd: tuple[int, ...]
    aliases: tuple[str, ...] = ()


def rows(file: str, table: str) -> list[dict[str, Any]]:
    """The rows `[[table]]` of one data file."""
    text = resources.files("exosuit.advise").joinpath("data", file).read_text("utf-8")
    return cast("list[dict[str, Any]]", tomllib.loads(text)[table])


def frozen(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        for key, value in row.items()
    }


@cache
def cards() -> tuple[Card, ...]:
    return tuple(Card(**frozen(row)) for row in rows("cards.toml", "card"))


@cache
def macs() -> tuple[Mac, ...]:
    return tuple(Mac(**frozen(row)) for row in rows("macs.toml", "mac"))


@cache
def links() -> tuple[Link, ...]:
    return tuple(Link(**frozen(row)) for row in rows("links.toml", "link"))


@cache
def boxes() -> tuple[Box, ...]:
    return tuple(Box(**frozen(row)) for row in rows("boxes.toml", "box"))


def find_card(text: str) -> Card:
    """The card that a person means by `text`: `rtx 4090`, `4090`, `7900xtx`, `10de:2684`.

    Raises UsageError with the nearest names if there is none.
    """
    by_id = next((card for card in cards() if card.pci and card.pci == text.lower()), None)
    return by_id or find(text, cards(), "card", "exosuit plan --cards")


def find_mac(text: str) -> Mac:
    """The chip that a person means by `m4-pro`, `M4 Pro` or `Apple M4 Pro`."""
    return find(re.sub(r"(?i)^apple\s+", "", text), macs(), "Mac", "exosuit plan --cards")


def find_link(text: str) -> Link:
    """The link that a person means by `tb4`, `thunderbolt 4`, `slot`."""
    return find(text, links(), "link", "exosuit plan --cards")


def find(text: str, among: Iterable[Row], kind: str, listing: str) -> Row:
    """The row whose name or alias `text` is, spelled loosely; maker and series may be left out.

    Raises UsageError naming the three nearest if there is none.
    """
    known = {plain(name): row for row in among for name in (row.name, *row.aliases)}
    wanted = plain(text)
    if wanted in known:
        return known[wanted]
    ending = [row for name, row in known.items() if wanted and name.endswith(wanted)]
    if len({row.name for row in ending}) == 1:
        return ending[0]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    names = ", ".join(dict.fromkeys(known[name].name for name in near))
    raise UsageError(
        f"no {kind} called {text!r} is in the catalogue",
        cause=f"the nearest are {names}" if names else f"no {kind} has a similar name",
        next=listing,
        asked=text,
        near=[known[name].name for name in near],
    )


def cards_called(title: str) -> list[Card]:
    """The cards that one PCI id may be: `Radeon RX 7900 XT/7900 XTX` names two."""
    parts = [part for part in map(plain, title.split("/")) if part]
    return [
        card
        for card in cards()
        if any(plain(name).endswith(tuple(parts)) for name in (card.name, *card.aliases))
    ]


def plain(text: str) -> str:
    """`GeForce RTX 4090` as `rtx4090`: what names are compared by."""
    return re.sub(r"[^a-z0-9.]", "", _ORNAMENT.sub("", text).lower())


_ORNAMENT = re.compile(
    r"(?i)\b(nvidia|geforce|amd|radeon|lite hash rate|(workstation|server) edition)\b"
)
"""What makers add to a card's name, and people leave out."""
