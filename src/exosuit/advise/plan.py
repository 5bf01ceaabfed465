"""Does it fit, where does it go, how fast will it be, and what would it take: `plan(...) -> Plan`.

Pure: a footprint, a context, rooms and an engine in, a value out. Every decision is a `Choice` that
can say why and instead of what. When a model does not fit the cards, the plan still says what a
split with the host would cost, and what to take instead: fewer bits, less context, another card,
two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from exosuit.advise.catalogue import boxes, cards, find_card
from exosuit.advise.claims import corrections
from exosuit.advise.footprint import Footprint
from exosuit.advise.mixes import LADDER
from exosuit.advise.placement import Part, Room, Speed, place, predict
from exosuit.advise.speed import CLASS, DISK_GB_S, TYPICAL_FILL, Engine, Rates
from exosuit.errors import UsageError
from exosuit.units import human_bytes

Value = TypeVar("Value")
DEFAULT_CONTEXT = 8192
SHORTEST_CONTEXT = 2048
HEADROOM = 1.25
"""Watts of a box's supply per watt of the card: cards exceed their board power for milliseconds."""


@dataclass(frozen=True, slots=True)
class Choice(Generic[Value]):
    """A decision that can say why."""

    value: Value
    because: str
    instead_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instead:
    """Something else that would work: what, how fast, and what to type."""

    what: str
    decode_tok_s: float | None = None
    command: str = ""

    @property
    def text(self) -> str:
        speed = f", about {self.decode_tok_s:.0f} tok/s" if self.decode_tok_s else ""
        return f"{self.what}{speed}" + (f":  {self.command}" if self.command else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What `exosuit plan` says; `fits`: on the cards alone, or on the host if there are none."""

    need: Footprint
    fits: bool
    context: Choice[int]
    placement: Choice[tuple[Part, ...]]
    predicted: Speed | None
    engine: Engine
    because: tuple[str, ...]
    instead: tuple[Instead, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The document of `plan --json`, as interface.md has it."""
        speed = self.predicted
        return {
            "model": f"{self.need.name}:{self.need.mix}" if self.need.mix else self.need.name,
            "fits": self.fits,
            "placement": [
                {"device": p.room.device, "layers": [p.first, p.stop], "bytes": p.bytes}
                for p in self.placement.value
            ],
            "weight_bytes": self.need.weight_bytes,
            "kv_bytes": self.need.kv_bytes(self.context.value),
            "workspace_bytes": self.need.workspace_bytes(),
            "context": self.context.value,
            "predicted": {
                "decode_tok_s": round(speed.decode_tok_s, 2) if speed else None,
                "prefill_tok_s": round(speed.prefill_tok_s, 1) if speed else None,
                "load_s": round(speed.load_s, 1) if speed else None,
            },
            "because": list(self.because),
            "instead": [entry.text for entry in self.instead],
        }


Remix = Callable[[str], Footprint]


def plan(
    need: Footprint,
    card_rooms: Sequence[Room],
    host: Room,
    context: int | None = None,
    engine: Engine = CLASS,
    remix: Remix | None = None,
) -> Plan:
    """Plan one model on some cards and a host.

    context   tokens, or None to choose: the usual length, or less where only less fits
    remix     the same model in another storage mix, where that can be said

    Raises UsageError for a context that the model does not have.
    """
    chosen = _context(need, card_rooms, host, context)
    parts = _place(need, chosen.value, card_rooms, host)
    fits = bool(parts) and (not card_rooms or not any(p.room.rates.is_host for p in parts))
    where = Choice(tuple(parts), _where(need, chosen.value, parts, card_rooms, fits))
    speed = predict(need, parts, TYPICAL_FILL, engine) if parts else None
    reasons = [*need.notes, _needs(need, chosen.value), chosen.because, where.because]
    if speed:
        reasons += _speed_reasons(need, parts, engine)
    reasons += _power(card_rooms)
    external = any(_is_external(room) for room in card_rooms)
    reasons += corrections(need.name, [r.device for r in card_rooms], fits, external)
    instead = () if fits else _instead(need, chosen.value, card_rooms, host, engine, remix)
    return Plan(need, fits, chosen, where, speed, engine, tuple(reasons), instead)


def _place(need: Footprint, context: int, rooms: Sequence[Room], host: Room) -> list[Part]:
    """On the cards alone if that works, else with the host, else nowhere."""
    if rooms and (parts := place(need, context, rooms, None)):
        return parts
    return place(need, context, rooms, host) or []


def _fits(need: Footprint, context: int, rooms: Sequence[Room], host: Room) -> bool:
    return place(need, context, rooms, None if rooms else host) is not None


def _context(need: Footprint, rooms: Sequence[Room], host: Room, asked: int | None) -> Choice[int]:
    limit = need.context_limit or DEFAULT_CONTEXT
    if asked is not None:
        if not 0 < asked <= limit:
            raise UsageError(
                f"a context of {asked} tokens is not possible with {need.name}",
                cause=f"the model was made for at most {limit} tokens",
                next=f"exosuit plan {need.name} --context {min(limit, DEFAULT_CONTEXT)}",
                limit=limit,
            )
        return Choice(asked, f"context of {asked} tokens as asked (the model's limit is {limit})")
    usual = min(DEFAULT_CONTEXT, limit)
    length = usual
    while length > SHORTEST_CONTEXT and not _fits(need, length, rooms, host):
        length //= 2
    if length == usual or not _fits(need, length, rooms, host):
        return Choice(usual, f"context of {usual} tokens (the model's limit is {limit})")
    return Choice(
        length,
        f"context of {length} tokens: {usual} would not fit beside the weights",
        (f"{usual} tokens",),
    )


def _needs(need: Footprint, context: int) -> str:
    kv, work = need.kv_bytes(context), need.workspace_bytes()
    total = need.weight_bytes + kv + work
    return (
        f"needs {_gb(total)}: weights {_gb(need.weight_bytes)}, KV cache {_gb(kv)} for {context}"
        f" tokens, workspace {_gb(work)}"
    )


def _where(
    need: Footprint, context: int, parts: Sequence[Part], rooms: Sequence[Room], fits: bool
) -> str:
    usable = sum(room.usable_bytes for room in rooms)
    total = need.weight_bytes + need.kv_bytes(context) + need.workspace_bytes()
    if not parts:
        return "there is no room for it, not even with the host's memory"
    if not rooms:
        return f"on the host, which has {_gb(parts[0].room.usable_bytes)} for it"
    if fits and len(parts) == 1:
        return f"all on {parts[0].room.device}, which has {_gb(usable)} usable"
    if fits:
        layers = " + ".join(f"{p.stop - p.first} on {p.room.device}" for p in parts)
        return f"over {len(parts)} cards by layers ({layers}); {_gb(usable)} usable together"
    kept = sum(p.stop - p.first for p in parts if not p.room.rates.is_host)
    return (
        f"does not fit: {_gb(total)} against {_gb(usable)} usable; {kept} of {len(need.layers)}"
        " layers go to the card, the rest is computed by the host from its own memory"
    )


def _speed_reasons(need: Footprint, parts: Sequence[Part], engine: Engine) -> list[str]:
    read = need.read_bytes + need.kv_read(TYPICAL_FILL)
    hosts = [part for part in parts if part.room.rates.is_host]
    reasons = [
        f"a token reads {_gb(read)} ({_gb(need.read_bytes)} of weights, the rest cache at"
        f" {TYPICAL_FILL} tokens)"
    ]
    if len(hosts) < len(parts):
        reasons.append(
            f"decode assumes {engine.share:.0%} of a card's bandwidth and {engine.layer_us:g} us"
            f" per layer: {engine.because}; exosuit itself has not been measured on a card yet"
        )
    for part in hosts:
        reasons.append(
            f"{part.room.device} is assumed to reach {part.room.rates.host_share:.0%} of its"
            f" {part.room.rates.gb_s:.0f} GB/s of memory bandwidth"
        )
    for part in parts:
        link = part.room.link_gb_s
        if link:
            slow = f"{min(link, DISK_GB_S):g} GB/s" + (" (the disk's)" if link > DISK_GB_S else "")
            reasons.append(
                f"loading sends {_gb(part.weight_bytes)} to {part.room.device} at {slow}"
            )
    return reasons


def _power(rooms: Sequence[Room]) -> list[str]:
    """Which boxes feed a card that hangs on a cable, and how many can be used."""
    reasons: list[str] = []
    if sum(_is_external(room) for room in rooms) > 1:
        reasons.append("TinyGPU.app drives one card at a time; several in boxes need Linux")
    for name in dict.fromkeys(room.device for room in rooms if _is_external(room)):
        card = next((card for card in cards() if card.name == name), None)
        if card is None:
            continue
        wanted = card.power_w * HEADROOM
        strong = [f"{box.name} ({box.power_w} W)" for box in boxes() if box.power_w >= wanted]
        which = f"strong enough are {', '.join(strong)}" if strong else "no listed box has that"
        reasons.append(f"{name} takes {card.power_w} W; want a box of {wanted:.0f} W: {which}")
    return reasons


def _is_external(room: Room) -> bool:
    return 0 < room.link_gb_s < 10


def _instead(
    need: Footprint,
    context: int,
    rooms: Sequence[Room],
    host: Room,
    engine: Engine,
    remix: Remix | None,
) -> tuple[Instead, ...]:
    """What would work, the smallest change first."""
    found: list[Instead] = []
    flags = "".join(f" --card '{room.device}'" for room in rooms)
    if remix:
        found += _fewer_bits(need, context, rooms, host, engine, remix, flags)
    shorter = context // 2
    while shorter >= SHORTEST_CONTEXT and not _fits(need, shorter, rooms, host):
        shorter //= 2
    if shorter >= SHORTEST_CONTEXT:
        command = f"exosuit plan {_asked(need)}{flags} --context {shorter}"
        found.append(Instead(f"a context of {shorter} tokens fits", command=command))
    link = max((room.link_gb_s for room in rooms), default=2.8)
    found += _other_cards(need, context, engine, link)
    return tuple(found)


def _fewer_bits(
    need: Footprint,
    context: int,
    rooms: Sequence[Room],
    host: Room,
    engine: Engine,
    remix: Remix,
    flags: str,
) -> list[Instead]:
    for mix in LADDER:
        other = remix(mix)
        if other.weight_bytes >= need.weight_bytes or not _fits(other, context, rooms, host):
            continue
        parts = _place(other, context, rooms, host)
        speed = predict(other, parts, TYPICAL_FILL, engine)
        harm = "" if mix in LADDER[:5] else ", at a clear loss of quality"
        what = f"{mix} ({_gb(other.weight_bytes)} of weights) fits{harm}"
        command = f"exosuit plan {other.name}:{mix}{flags}"
        return [Instead(what, speed.decode_tok_s, command)]
    return []


def _other_cards(need: Footprint, context: int, engine: Engine, link: float) -> list[Instead]:
    """The cheapest single card that holds it, and the cheapest pair."""
    found: list[Instead] = []
    sold = sorted(
        (card for card in cards() if card.price_usd and card.drivable),
        key=lambda card: (card.price_usd[0], -card.gb_s),
    )
    for count in (1, 2):
        for card in sold:
            room = Room(card.name, card.memory_bytes, Rates(card.gb_s, card.f16_tflops), link)
            parts = place(need, context, [room] * count, None)
            if parts is None:
                continue
            speed = predict(need, parts, TYPICAL_FILL, engine)
            many = "two " if count == 2 else "one "
            price = f" ({card.price} each)" if count == 2 else f" ({card.price})"
            flags = f" --card '{card.name}'" * count
            command = f"exosuit plan {_asked(need)}{flags}"
            what = f"{many}{card.name} of {card.memory_gib} GB{price} would hold it"
            found.append(Instead(what, speed.decode_tok_s, command))
            break
    return found


def _asked(need: Footprint) -> str:
    return f"{need.name}:{need.mix}" if need.mix and "/" not in need.name else need.name


def _gb(size: float) -> str:
    """Decimal gigabytes for what is compared with files and cards: `42.5 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else human_bytes(size)


def with_card(rooms: Sequence[Room], name: str, link_gb_s: float) -> list[Room]:
    """`rooms` and one more card of the catalogue."""
    card = find_card(name)
    rates = Rates(card.gb_s, card.f16_tflops)
    count = sum(room.device.split(" #")[0] == card.name for room in rooms)
    device = card.name if count == 0 else f"{card.name} #{count + 1}"
    return [*rooms, replace(Room(device, card.memory_bytes, rates), link_gb_s=link_gb_s)]
