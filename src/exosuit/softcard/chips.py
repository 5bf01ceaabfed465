"""Which software cards there are, and how one is described: `generic,vram=2G,bar=256M,link=tb4`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial

from exosuit.errors import UsageError
from exosuit.silicon.amd.chips import CHIPS as AMD_CHIPS
from exosuit.silicon.amd.chips import Chip
from exosuit.softcard.card import Options, SoftCard
from exosuit.softcard.faults import FaultSchedule
from exosuit.softcard.generic import GenericCard
from exosuit.softcard.timing import find_model
from exosuit.units import GiB, KiB, MiB


def _amd(chip: Chip, options: Options) -> SoftCard:
    from exosuit.softcard.amd.card import AmdCard  # brings a compiler along

    return AmdCard(chip, options)


def _nvidia(name: str, options: Options) -> SoftCard:
    from exosuit.softcard.nvidia.card import NvidiaCard  # brings a compiler along
    from exosuit.softcard.nvidia.products import PRODUCTS

    return NvidiaCard(next(p for p in PRODUCTS if p.name == name), options)


CHIPS: dict[str, Callable[[Options], SoftCard]] = {
    "generic": GenericCard,
    **{chip.target: partial(_amd, chip) for chip in AMD_CHIPS},
    **{name: partial(_nvidia, name) for name in ("ga102", "ad102", "gb202")},
}
"""Chips by the name that follows `soft:`; chips of other floors' descriptions join here."""

KEYS = ("vram", "bar", "link", "faults", "strict")
LARGEST = 1 << 40


def make_card(chip: str, options: Options) -> SoftCard:
    """A new card, powered on. Raises UsageError for a chip that there is not."""
    maker = CHIPS.get(chip)
    if maker is None:
        near = difflib.get_close_matches(chip, CHIPS, n=1)
        raise UsageError(
            f"there is no software card {chip!r}" + (f"; did you mean {near[0]}?" if near else ""),
            cause=f"the chips are {', '.join(CHIPS)}",
            next=f"exosuit softcard {near[0] if near else 'generic'}",
            chip=chip,
        )
    return maker(options)


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Chip and options of what follows `soft:`. Raises UsageError for an option that is none."""
    chip, *parts = text.split(",")
    chosen: dict[str, str] = {}
    for part in parts:
        key, separator, value = part.partition("=")
        if key not in KEYS or (key != "strict" and not (separator and value)):
            raise UsageError(
                f"{part!r} is no option of a software card",
                cause=f"options are {', '.join(f'{key}=...' for key in KEYS[:-1])} and strict",
                next="exosuit list --device soft:generic,vram=2G,link=tb4",
                option=part,
            )
        chosen[key] = value
    return chip, chosen


def parse_options(chosen: Mapping[str, str]) -> Options:
    """Options from their texts. Raises UsageError."""
    return Options(
        vram=parse_size(chosen["vram"]) if "vram" in chosen else 0,
        bar=parse_size(chosen["bar"], power_of_two=True) if "bar" in chosen else 0,
        link=find_model(chosen.get("link", "slot")),
        faults=FaultSchedule.parse(chosen.get("faults", "")),
        strict="strict" in chosen,
    )


def parse_size(text: str, *, power_of_two: bool = False) -> int:
    """`2G`, `256M` or `4096K` in bytes; whole MiB, at least one. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,9})([KMG])i?B?", text, re.IGNORECASE)
    size = int(match[1]) * {"K": KiB, "M": MiB, "G": GiB}[match[2].upper()] if match else 0
    wrong = size < MiB or size % MiB or size > LARGEST
    if wrong or (power_of_two and size & (size - 1)):
        shape = "a power of two such as 256M" if power_of_two else "such as 2G or 512M"
        raise UsageError(
            f"{text!r} is no size for a card",
            cause=f"a size is {shape}, from 1M to 1024G",
            next="exosuit softcard generic --vram 2G --bar 256M",
            size=text,
        )
    return size
