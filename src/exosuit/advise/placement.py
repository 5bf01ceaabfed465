"""Where a model goes: all on one card, over several cards, or the first layers on the host.

The last device holds the last layers and the output matrix, because the sampled token is made
there. Devices are filled from the end: cards first, what does not fit stays on the host. A token
then passes host, first card, second card, and so on, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exosuit.advise.footprint import Footprint, LayerNeed
from exosuit.advise.speed import CROSSING_S, Engine, Rates, decode_s, load_s, prefill_s
from exosuit.units import GiB, MiB

CARD_RESERVE = 768 * MiB
"""What a card keeps for firmware, page tables, queues and programs; assumed."""


@dataclass(frozen=True, slots=True)
class Room:
    """One device that may hold layers. `link_gb_s` is 0 for the host itself."""

    device: str
    memory_bytes: int
    rates: Rates
    link_gb_s: float = 0.0

    @property
    def usable_bytes(self) -> int:
        """A host keeps a fifth, at least 4 GiB, for everything else."""
        if self.rates.is_host:
            return max(0, self.memory_bytes - max(4 * GiB, self.memory_bytes // 5))
        return max(0, self.memory_bytes - CARD_RESERVE)


@dataclass(frozen=True, slots=True)
class Part:
    """What one device holds: layers `first` to `stop` - 1, and in bytes."""

    room: Room
    first: int
    stop: int
    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int
    has_head: bool

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes


@dataclass(frozen=True, slots=True)
class Speed:
    """Predicted: tokens per second and seconds."""

    decode_tok_s: float
    prefill_tok_s: float
    load_s: float


def place(
    need: Footprint, context: int, cards: Sequence[Room], host: Room | None
) -> list[Part] | None:
    """Parts in the order in which a token passes them; None if there is no room.

    The host is used only for what the cards cannot hold; without cards it holds everything.
    """
    rooms = [*([host] if host else []), *cards]
    parts: list[Part] = []
    stop = len(need.layers)
    for room in reversed(rooms):
        last = not parts
        part = _fill(need, context, room, stop, last)
        if part is None:
            if last and room.rates.is_host:
                return None
            continue
        parts.insert(0, part)
        stop = part.first
        if stop == 0 and _embedding_is_placed(need, parts[0]):
            return parts
    return None


def _embedding_is_placed(need: Footprint, first: Part) -> bool:
    """Whether the first part also found room for the embedding table, or holds it as the head."""
    without = sum(layer.weight_bytes for layer in need.layers[first.first : first.stop])
    head = need.head_read_bytes if first.has_head else 0
    table = 0 if need.tied and first.has_head else need.embedding_bytes
    return first.weight_bytes >= without + head + table


def _fill(need: Footprint, context: int, room: Room, stop: int, last: bool) -> Part | None:
    """As many layers before `stop` as the room holds, then the embedding if it begins the model."""
    left = room.usable_bytes - need.workspace_bytes()
    weights = need.head_read_bytes if last else 0
    left -= weights
    if left < 0:
        return None
    kv = 0
    first = stop
    while first > 0:
        layer = need.layers[first - 1]
        size = layer.weight_bytes + layer.kv_bytes(context)
        if size > left:
            break
        left -= size
        weights += layer.weight_bytes
        kv += layer.kv_bytes(context)
        first -= 1
    if first == 0 and not (need.tied and last) and need.embedding_bytes <= left:
        weights += need.embedding_bytes
    if first == stop and stop > 0 and not last:
        return None
    return Part(room, first, stop, weights, kv, need.workspace_bytes(), last)


def split(
    need: Footprint, context: int, rooms: Sequence[Room], counts: Sequence[int]
) -> list[Part]:
    """Parts as llama.cpp divides them: `counts` layers per room, both ends with the last."""
    parts: list[Part] = []
    first = 0
    for index, (room, count) in enumerate(zip(rooms, counts, strict=True)):
        layers = need.layers[first : first + count]
        last = index == len(rooms) - 1
        weights = sum(layer.weight_bytes for layer in layers)
        weights += need.embedding_bytes + need.output_bytes if last else 0
        kv = sum(layer.kv_bytes(context) for layer in layers)
        parts.append(Part(room, first, first + count, weights, kv, need.workspace_bytes(), last))
        first += count
    return parts


def predict(need: Footprint, parts: Sequence[Part], filled: int, engine: Engine) -> Speed:
    """Speed of one sequence with `filled` tokens behind it, the model placed as `parts`."""
    token = CROSSING_S * (len(parts) - 1)
    prompt = 0.0
    for part in parts:
        layers: Sequence[LayerNeed] = need.layers[part.first : part.stop]
        head = need.head_read_bytes if part.has_head else 0
        token += decode_s(layers, head, filled, part.room.rates, engine)
        prompt += prefill_s(layers, part.room.rates, engine)
    cards = [(p.weight_bytes, p.room.link_gb_s) for p in parts if not p.room.rates.is_host]
    host = sum(p.weight_bytes for p in parts if p.room.rates.is_host)
    return Speed(1 / token, 1 / prompt if prompt else 0.0, load_s(cards, host))
