"""Prediction against measurement: every published row that states card, model and format.

    python -m exosuit.advise.measured docs/plan.md

rewrites the table that stands in docs/plan.md between its marks. An engine's share of bandwidth is
fitted over its own rows, so a small mean error is no merit; look at the spread of the errors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

from exosuit.advise.catalogue import find_card, find_link, find_mac, rows
from exosuit.advise.footprint import Footprint, from_shape
from exosuit.advise.placement import Part, Room, Speed, place, predict, split
from exosuit.advise.shapes import find_model
from exosuit.advise.speed import ENGINES, TYPICAL_FILL, Engine, Rates
from exosuit.units import GiB

CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One published measurement; see `data/measured.toml`."""

    who: str
    engine: str
    cards: list[str]
    model: str
    mix: str
    source: str
    tok_s: float = 0.0
    prefill_tok_s: float = 0.0
    gb: float = 0.0
    filled: int = TYPICAL_FILL
    mac: str = ""
    split: tuple[int, ...] = ()
    doubt: str = ""
    steady: bool = True
    calibrates: bool = True
    ran: bool = True

    @property
    def fits_engine(self) -> bool:
        """Whether the engine's share is fitted on this row."""
        return self.calibrates and self.steady and self.ran


@dataclass(frozen=True, slots=True)
class Compared:
    """A row beside what is predicted for it. `error` is predicted over measured, less 1."""

    row: Row
    weight_bytes: int
    fits: bool
    speed: Speed | None

    @property
    def error(self) -> float:
        assert self.speed is not None
        return self.speed.decode_tok_s / self.row.tok_s - 1

    @property
    def prefill_error(self) -> float:
        assert self.speed is not None
        return self.speed.prefill_tok_s / self.row.prefill_tok_s - 1


@cache
def measurements() -> tuple[Row, ...]:
    return tuple(Row(**row) for row in rows("measured.toml", "row"))


def card_room(name: str, link: str = "Thunderbolt 4") -> Room:
    """A card of the catalogue as a place for layers."""
    card = find_card(name)
    rates = Rates(card.gb_s, card.f16_tflops)
    return Room(card.name, card.memory_bytes, rates, find_link(link).gb_s)


def compare(row: Row, engine: Engine) -> Compared:
    """Plan the row's model on the row's cards, for an engine."""
    need = _need(row)
    cards = [card_room(name) for name in row.cards]
    context = max(CONTEXT, row.filled)
    parts: Sequence[Part] | None
    if row.split:  # the other side of the split is a Mac's GPU, which is a card in all but name
        mac = find_mac(row.mac)
        metal = Room(mac.name, max(mac.memory_gib) * GiB, Rates(mac.gb_s, mac.gb_s / 40), mac.gb_s)
        parts = split(need, context, [*cards, metal], row.split)
        fits = all(part.bytes <= part.room.usable_bytes for part in parts)
    else:
        parts = place(need, context, cards, None)
        fits = parts is not None
    speed = predict(need, parts, row.filled, engine) if parts and fits else None
    return Compared(row, need.weight_bytes, fits, speed)


def _need(row: Row) -> Footprint:
    """The footprint of the row's model, stretched to the stated size of its file."""
    need = from_shape(find_model(row.model), row.mix)
    if not row.gb:
        return need
    factor = row.gb * 1e9 / need.weight_bytes
    layers = tuple(
        replace(
            layer,
            weight_bytes=round(layer.weight_bytes * factor),
            read_bytes=layer.read_bytes * factor,
        )
        for layer in need.layers
    )
    return replace(
        need,
        layers=layers,
        embedding_bytes=round(need.embedding_bytes * factor),
        output_bytes=round(need.output_bytes * factor),
    )


def fitted_share(name: str) -> float:
    """The bandwidth share with which an engine's rows are predicted without mean (log) error."""
    mine = [row for row in measurements() if row.engine == name and row.fits_engine]
    engine = ENGINES[name]
    for _ in range(12):
        errors = [compare(row, engine).error for row in mine]
        mean = math.exp(sum(math.log1p(error) for error in errors) / len(errors))
        engine = replace(engine, share=engine.share / mean)
    return engine.share


def table() -> str:
    """The comparison as Markdown."""
    lines = [
        "| who | cards | model | GB | fits | measured tok/s | predicted | error | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    doubts: list[str] = []
    for row in measurements():
        found = compare(row, ENGINES[row.engine])
        mark = ""
        if row.doubt:
            doubts.append(row.doubt)
            mark = f" [{len(doubts)}]"
        expected = "yes" if found.fits else "no"
        agrees = "" if found.fits == row.ran else " (measured otherwise)"
        cells = [
            row.who + mark,
            " + ".join([*row.cards, *([f"{row.mac} GPU"] if row.mac else [])]),
            f"{row.model} {row.mix}",
            f"{found.weight_bytes / 1e9:.2f}",
            expected + agrees,
            f"{row.tok_s:g}" if row.ran else "out of memory",
            f"{found.speed.decode_tok_s:.1f}" if found.speed and row.ran else "",
            f"{found.error:+.0%}" if found.speed and row.ran and row.steady else "",
            row.source,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"[{number}] {doubt}  " for number, doubt in enumerate(doubts, 1)]
    lines += ["", *_summary()]
    return "\n".join(lines) + "\n"


def _summary() -> list[str]:
    lines = [
        "| engine | share of bandwidth | rows | median error | worst |",
        "|---|---|---|---|---|",
    ]
    for name, engine in ENGINES.items():
        mine = [row for row in measurements() if row.engine == name and row.fits_engine]
        errors = [compare(row, engine).error for row in mine]
        worst = max(errors, key=abs)
        lines.append(
            f"| {name} | {engine.share:.1%} | {len(mine)}"
            f" | {median(abs(e) for e in errors):.0%} | {worst:+.0%} |"
        )
    return lines


BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


def rewrite(page: str) -> str:
    """The page with its table made anew; the page keeps the marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(rewrite(target.read_text("utf-8")), "utf-8")
