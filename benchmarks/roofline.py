"""Draw what a card visit measured under the roofs of the card: operations against bytes read.

    python benchmarks/roofline.py FILE --out docs/images/roofline.svg --table

FILE is what `benchmarks/gpu.py` wrote. A decoded token reads every active weight once, so its
place on the horizontal axis is operations per byte of weights; a batch moves it to the right, and a
prompt, 512 tokens at a time, under the flat roof. Caches and activations are not counted. `--table`
prints the same numbers as Markdown. Drawn as SVG by hand: a plot of three lines and ten points.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 512
"""Tokens of a prompt that share one pass over the weights."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 860, 520, 70, 50, 30, 210
_COLOURS = ("#1f6f8b", "#c0532f", "#4c8a3f", "#8a4fa0", "#b08b1e", "#444444")


@dataclass(frozen=True)
class Point:
    """One measurement: operations per byte of weights, and 10^9 operations per second."""

    model: str
    what: str
    intensity: float
    gflop_s: float


@dataclass(frozen=True)
class Roofs:
    """10^9 per second."""

    read_gb_s: float
    measured_gflop_s: float
    sheet_gflop_s: float

    @property
    def top(self) -> float:
        return self.sheet_gflop_s or self.measured_gflop_s

    def over(self, intensity: float) -> float:
        return min(self.read_gb_s * intensity, self.top)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="write the picture here")
    parser.add_argument("--table", action="store_true", help="print the numbers as Markdown")
    wanted = parser.parse_args()
    roofs, points, title = read(json.loads(wanted.file.read_text())["stages"])
    if wanted.out:
        wanted.out.write_text(draw(roofs, points, title))
    if wanted.table or not wanted.out:
        print(table(roofs, points))
    return 0


def read(stages: dict[str, dict[str, Any]]) -> tuple[Roofs, list[Point], str]:
    """The roofs, the points, and whose they are. Stages that failed are left out."""
    found = {
        name: stage["results"][0]
        for name, stage in stages.items()
        if name.startswith("speed-") and "results" in stage
    }
    if not found:
        raise SystemExit("the file has no speed of any model")
    best = [row["card"] for row in found.values()]
    roofs = Roofs(
        max(card["read_gb_s"] for card in best),
        max(card["matrix_gflop_s"] for card in best),
        max(card["datasheet_gflop_s"] for card in best),
    )
    points: list[Point] = []
    for name, row in found.items():
        model = name.removeprefix("speed-")
        flops = 1e9 * row["prefill_gflop_s"] / row["prefill_tok_s"]
        each = flops / row["weight_bytes_per_token"]
        points.append(Point(model, "decode", each, flops * row["decode_tok_s"] / 1e9))
        points.append(Point(model, "prefill", CHUNK * each, row["prefill_gflop_s"]))
        rates = stages.get(f"batch-{model}", {}).get("tok_s", {})
        for count, rate in rates.items():
            if int(count) > 1:
                points.append(
                    Point(model, f"batch of {count}", int(count) * each, flops * rate / 1e9)
                )
    card = best[0]
    simulated = any(stage.get("simulated") for stage in stages.values())
    return roofs, points, card["title"] + (" (simulated: no speed)" if simulated else "")


def table(roofs: Roofs, points: list[Point]) -> str:
    """Share of the roof above each point."""
    lines = ["| model | work | operations/byte | GFLOP/s | of the roof |", "|---|---|---|---|---|"]
    lines += [
        f"| {p.model} | {p.what} | {p.intensity:.1f} | {p.gflop_s:.0f}"
        f" | {p.gflop_s / roofs.over(p.intensity):.0%} |"
        for p in points
    ]
    return "\n".join(lines)


def draw(roofs: Roofs, points: list[Point], title: str) -> str:
    """The picture as SVG, both axes logarithmic."""
    ridge = roofs.top / roofs.read_gb_s
    xs = [p.intensity for p in points] + [ridge]
    ys = [p.gflop_s for p in points] + [roofs.top]
    left, right = _decades(min(xs), max(xs))
    low, high = _decades(min(ys), max(ys))

    def x(value: float) -> float:
        share = (math.log10(value) - left) / (right - left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 18, f"{title}: measured under its roofs"),
    ]
    for power in range(left, right + 1):
        out.append(_line(x(10**power), y(10**low), x(10**power), y(10**high), "#dddddd"))
        out.append(_text(x(10**power) - 8, _HEIGHT - _BOTTOM + 16, f"{10.0**power:g}"))
    for power in range(low, high + 1):
        out.append(_line(x(10**left), y(10**power), x(10**right), y(10**power), "#dddddd"))
        out.append(_text(8, y(10**power) + 4, f"{10.0**power:g}"))
    start = max(10**left, 10**low / roofs.read_gb_s)
    out.append(_line(x(start), y(roofs.over(start)), x(ridge), y(roofs.top), "black"))
    out.append(_line(x(ridge), y(roofs.top), x(10**right), y(roofs.top), "black"))
    out.append(_text(x(ridge) + 8, y(roofs.top) - 6, f"{roofs.top / 1e3:.3g} TFLOP/s of f16"))
    middle = math.sqrt(start * ridge)
    out.append(_text(x(middle) - 110, y(roofs.over(middle)), f"{roofs.read_gb_s:.0f} GB/s read"))
    models = list(dict.fromkeys(p.model for p in points))
    for point in points:
        colour = _COLOURS[models.index(point.model) % len(_COLOURS)]
        size = 6 if point.what in ("decode", "prefill") else 3
        out.append(
            f'<circle cx="{x(point.intensity):.1f}" cy="{y(point.gflop_s):.1f}" r="{size}"'
            f' fill="{colour}"><title>{point.model}, {point.what}</title></circle>'
        )
    for k, model in enumerate(models):
        place = _TOP + 30 + 20 * k
        colour = _COLOURS[k % len(_COLOURS)]
        out.append(f'<circle cx="{_WIDTH - _RIGHT + 20}" cy="{place}" r="5" fill="{colour}"/>')
        out.append(_text(_WIDTH - _RIGHT + 32, place + 4, model))
    out.append(_text(_LEFT, _HEIGHT - 12, "operations per byte of weights; GFLOP/s upwards"))
    return "\n".join([*out, "</svg>\n"])


def _decades(least: float, most: float) -> tuple[int, int]:
    return math.floor(math.log10(least)), math.ceil(math.log10(most * 1.05))


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str) -> str:
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}">{safe}</text>'


if __name__ == "__main__":
    raise SystemExit(main())
