"""Which card is this, and will it work: vendor and device ids with family, name and verdict.

The table is `pci_ids.toml`, data with its sources. Exact ids give the name, ranges give the family:
an id that nobody has listed but that lies in a known family is "untested, may be tried", never
invisible. The card's own registers have the last word; this is what can be said before touching it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, cast

from exosuit.silicon.pci import ClassCode

AMD = 0x1002
NVIDIA = 0x10DE
INTEL = 0x8086

Verdict = Literal["supported", "untested", "unsupported"]


@dataclass(frozen=True, slots=True)
class Family:
    """Chips that one driver boots the same way.

    ids     inclusive ranges of device ids
    target  what programs are compiled for, where the family alone decides it
    """

    vendor: int
    name: str
    architecture: str
    ids: tuple[tuple[int, int], ...]
    verdict: Verdict
    reason: str
    target: str

    def holds(self, vendor: int, device: int) -> bool:
        return vendor == self.vendor and any(low <= device <= high for low, high in self.ids)


@dataclass(frozen=True, slots=True)
class Identity:
    """What can be said of a PCI function by its ids alone.

    name    marketing name, or a description where the id is not listed
    chip    as the vendor calls the silicon, empty where not known
    listed  whether this very id is in the table
    """

    vendor: int
    device: int
    name: str
    chip: str
    family: str
    architecture: str
    target: str
    verdict: Verdict
    reason: str
    listed: bool


@cache
def families() -> tuple[Family, ...]:
    """All known families, in the order of the table."""
    found: list[Family] = []
    for entry in cast("list[dict[str, Any]]", _table()["family"]):
        ranges = cast("list[list[int]]", entry["ids"])
        found.append(
            Family(
                vendor=entry["vendor"],
                name=entry["name"],
                architecture=entry["architecture"],
                ids=tuple((low, high) for low, high in ranges),
                verdict=entry["verdict"],
                reason=entry["reason"],
                target=entry.get("target", ""),
            )
        )
    return tuple(found)


@cache
def _table() -> Mapping[str, Any]:
    text = resources.files("exosuit.silicon").joinpath("pci_ids.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def listed() -> Mapping[tuple[int, int], tuple[str, str]]:
    """Every listed id: (vendor, device) to (chip, marketing name)."""
    cards = cast("dict[str, dict[str, list[str]]]", _table()["cards"])
    found: dict[tuple[int, int], tuple[str, str]] = {}
    for vendor, rows in cards.items():
        for device, (chip, name) in rows.items():
            found[int(vendor, 16), int(device, 16)] = (chip, name)
    return found


def vendor_name(vendor: int) -> str:
    """`AMD` for 0x1002, or the number."""
    return {AMD: "AMD", NVIDIA: "NVIDIA", INTEL: "Intel"}.get(vendor, f"vendor {vendor:04x}")


def identify(vendor: int, device: int, class_code: int = 0x030000) -> Identity:
    """Name, family and verdict of a function; never fails, whatever the numbers are."""
    chip, name = listed().get((vendor, device), ("", ""))
    family = next((f for f in families() if f.holds(vendor, device)), None)
    maker = vendor_name(vendor)
    shown = f"{maker} {name}" if name else f"{maker} {chip or 'card'} {vendor:04x}:{device:04x}"
    verdict, reason = _judge(vendor, device, ClassCode(class_code & 0xFFFFFF), family, bool(name))
    return Identity(
        vendor=vendor,
        device=device,
        name=shown,
        chip=chip,
        family=family.name if family else "",
        architecture=family.architecture if family else "",
        target=family.target if family else "",
        verdict=verdict,
        reason=reason,
        listed=(vendor, device) in listed(),
    )


def _judge(
    vendor: int, device: int, kind: ClassCode, family: Family | None, named: bool
) -> tuple[Verdict, str]:
    if not kind.can_be_card:
        return "unsupported", f"not a card that computes ({kind.title})"
    if family is None:
        if vendor in (AMD, NVIDIA):
            return "unsupported", "this generation is not known here"
        return "unsupported", f"exosuit drives AMD and NVIDIA cards, not {vendor_name(vendor)}"
    if family.verdict == "supported" and not named:
        return "untested", f"an unlisted id of the {family.name} family; it may be tried"
    return family.verdict, family.reason
