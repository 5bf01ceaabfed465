"""The rows of `exosuit list` for cards: what is there, whether it can be used, how that is known.

Every display-class or accelerator function gets a row, never fewer; an id that nobody has listed is
"untested", a card that something else holds is "blocked" with who and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exosuit.advise import macos
from exosuit.advise.catalogue import cards_called
from exosuit.advise.checks_linux import functions_of
from exosuit.advise.routes import known_architectures, refusal_to_boot, way_to
from exosuit.advise.situation import Situation
from exosuit.link.find import Found
from exosuit.link.lock import Owner
from exosuit.silicon.pci import ClassCode
from exosuit.silicon.pci_ids import Identity, identify

Verdict = Literal["ready", "blocked", "untested", "unsupported"]
FREE_DRIVERS = {"", "vfio-pci", "pci-stub", "tinygpu", "nvidia"}
"""Who may hold a card that exosuit can still reach."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a card can be used, why not, what to do, and how it is known."""

    verdict: Verdict
    reason: str | None = None
    next: str | None = None
    known: str | None = None


def judge(found: Found, identity: Identity, on_mac: bool, owner: Owner | None) -> Judgement:
    """The verdict of one function; the first obstacle decides."""
    if identity.verdict == "unsupported":
        return Judgement("unsupported", identity.reason, "exosuit plan --cards")
    if on_mac and ClassCode(found.class_code).sub == 0x02:
        reason = "a 3D controller: Apple's signature of TinyGPU.app covers display controllers only"
        return Judgement("unsupported", reason, "use this card under Linux")
    if owner is not None:
        return Judgement("blocked", f"in use by {owner.describe()}", f"kill {owner.pid}")
    if found.driver not in FREE_DRIVERS:
        return Judgement("blocked", f"the kernel's {found.driver} has the card", "exosuit doctor")
    if on_mac and found.driver != "tinygpu":
        return Judgement("blocked", "TinyGPU's extension has not attached to it", "exosuit doctor")
    way = way_to(found.driver)
    if way == "boot" and (refusal := refusal_to_boot(identity)):
        return Judgement("blocked", refusal, "sudo modprobe nvidia   (once it is installed)")
    mark = known_architectures(way).get(identity.architecture)
    if mark is None:
        through = " through NVIDIA's kernel driver" if way == "nvidia" else ""
        reason = f"exosuit has no driver for {identity.architecture}{through} yet"
        return Judgement("untested", reason, "exosuit run --device cpu")
    if identity.verdict == "untested" and not (way == "nvidia" and identity.listed):
        return Judgement("untested", identity.reason, "exosuit doctor", mark)
    return Judgement("ready", known=mark)


def card_rows(
    functions: Sequence[Found], on_mac: bool, owners: dict[str, Owner]
) -> list[dict[str, Any]]:
    """Rows of `list --json` for these functions; `owners` by device name."""
    rows: list[dict[str, Any]] = []
    nvidia = 0
    for found in functions:
        identity = identify(found.vendor, found.device, found.class_code)
        device = f"pci:{found.name}"
        if on_mac:
            device = "tinygpu"
        elif found.driver == "nvidia":
            device = f"nvidia:{nvidia}"
            nvidia += 1
        judged = judge(found, identity, on_mac, owners.get(device))
        rows.append(
            {
                "device": device,
                "name": identity.name,
                "vendor_id": f"{found.vendor:04x}",
                "device_id": f"{found.device:04x}",
                "class_code": f"{found.class_code:06x}",
                "family": identity.family or None,
                "memory_bytes": _memory(identity),
                "driver": found.driver or None,
                "connection": _connection(found),
                "verdict": judged.verdict,
                "reason": judged.reason,
                "next": judged.next,
                "known": judged.known,
            }
        )
    return rows


def rows_of(situation: Situation) -> list[dict[str, Any]]:
    """Rows for the cards of a recorded situation, as `list --from FILE` shows them."""
    if situation.system == "macos":
        found = [
            Found(
                name=function.path,
                vendor=function.vendor,
                device=function.device,
                class_code=function.class_code,
                driver=function.driver,
                tunnelled=function.tunnelled,
            )
            for function in macos.functions(situation.text("ioreg"))
            if function.is_card
        ]
    else:
        found = [
            Found(
                name=function.name,
                vendor=function.number("vendor"),
                device=function.number("device"),
                class_code=function.number("class"),
                driver=function.driver,
            )
            for function in functions_of(situation)
        ]
    return card_rows(found, situation.system == "macos", {})


def _connection(found: Found) -> str:
    way = {True: "Thunderbolt or USB4", False: "slot", None: "PCI Express"}[found.tunnelled]
    return f"{way}, {found.link}" if found.link else way


def _memory(identity: Identity) -> int | None:
    """As sold, where the catalogue knows the card and the id names one card only."""
    sizes = {card.memory_bytes for card in cards_called(identity.name)}
    return sizes.pop() if len(sizes) == 1 and "/" not in identity.name else None
